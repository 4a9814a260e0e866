"""The page, and the server behind it. Nothing of it comes from or goes to another machine."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vmae_jax.demo.answers import Answers, BadClipError, Guesses, Limits

RATIOS = (0.5, 0.95, 0.05)  # lowest, highest, step
RATIO = 0.9  # of pre-training
WAITING = 20  # clips in the queue; whoever comes then is asked to come again
UPLOADS_ONLY = "drop a video file first"
KEPT = 3600  # seconds that a dropped clip stays on disk, and at most 5 minutes more
_PATIENCE = 60  # seconds that a refused upload may go on
_FORM = 10_000  # bytes of a request around its file
# The browser may ask this server only, whatever a later version of the library links to.
HEAD = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'self\' data: blob: '
    "'unsafe-inline' 'unsafe-eval'\">"
)


def build(answers: Answers, guesses: Guesses | None, limits: Limits) -> Any:
    """The page as `gradio.Blocks`; both of its functions wait for their turn at the model."""
    import gradio

    def politely(run: Callable) -> Callable:
        def answer(path: str | None, *rest: Any) -> Any:
            if not path or not _is_upload(path):
                raise gradio.Error(UPLOADS_ONLY, title="No clip", print_exception=False)
            try:
                return run(limits.open(path), *rest)
            except BadClipError as error:
                raise gradio.Error(
                    str(error), title="Not answered", print_exception=False
                ) from None

        return answer

    def show(video: Any) -> list[Any]:
        found = answers(video)
        return [found.probabilities] * bool(answers.names) + [found.frames, found.attention]

    def guess(video: Any, ratio: float) -> np.ndarray:
        low, high, step = RATIOS
        ratio = step * round(min(max(ratio, low), high) / step)  # each is compiled once
        return guesses(video, round(ratio, 2))

    # Who asks again before the answer is there is answered again, not ignored.
    turns = {"concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "multiple"}
    with gradio.Blocks(
        title="vmae_jax", analytics_enabled=False, delete_cache=(KEPT // 12, KEPT)
    ) as page:
        gradio.Markdown("# What does it see?\n" + _described(answers, limits))
        with gradio.Row():
            clip = gradio.Video(
                label="Clip", sources=["upload"], height=300, min_width=300, elem_id="clip"
            )
            _uploads_only(gradio, clip)
            shown = []
            if answers.names:
                shown.append(gradio.Label(label="Top five", min_width=300, elem_id="classes"))
        shown.append(_picture(gradio, "What it was shown", "frames"))
        shown.append(_picture(gradio, "Where it looked", "attention"))
        everything, pending = list(shown), []
        event = clip.upload(politely(show), clip, shown, api_name="answer", **turns)
        if guesses is not None:
            low, high, step = RATIOS
            ratio = gradio.Slider(
                low, high, RATIO, step=step, label="Share of the patches that is hidden"
            )
            picture = _picture(gradio, "What it guesses of the hidden patches", "guess")
            given = {"fn": politely(guess), "inputs": [clip, ratio], "outputs": picture, **turns}
            pending.append(event.success(api_name=False, **given))
            pending.append(ratio.release(api_name="guess", **given))
            everything.append(picture)
        clip.clear(
            lambda: [None] * len(everything), None, everything, api_name=False, queue=False,
            cancels=[event, *pending],
        )  # fmt: skip
    return page.queue(max_size=WAITING)


def _uploads_only(gradio: Any, clip: Any) -> None:
    """The library, in a server of ours, copies any file of this machine and fetches any address."""
    copy = clip.async_move_resource_to_block_cache

    async def uploaded(path: str | None) -> str | None:
        if not _is_upload(path):
            raise gradio.Error(UPLOADS_ONLY, print_exception=False)
        return await copy(path)

    clip.async_move_resource_to_block_cache = uploaded


def _is_upload(path: str | None) -> bool:
    folder = os.path.realpath(os.environ["GRADIO_TEMP_DIR"])
    return os.path.realpath(path or "").startswith(folder + os.sep)


class Bounded:
    """An ASGI application that takes no upload which its disk might not hold.

    The library limits single files, of which one request may bring any number.
    """

    def __init__(self, app: Any, folder: str, clip_bytes: int):
        self._app, self._folder, self._clip_bytes = app, folder, clip_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        answer = self._app
        if refusal := self._refusal(scope):
            status, detail = refusal
            answer = JSONResponse({"detail": detail}, status)
            await _discard(receive)
        await answer(scope, receive, send)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason where a request is not let through."""
        if scope["type"] != "http" or not scope["path"].endswith("/upload"):
            return None
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "uploads need a Content-Length"
        if int(length) > self._clip_bytes + _FORM:
            return 413, f"more than {self._clip_bytes / 1e6:g} MB"
        if self._kept() + int(length) > WAITING * self._clip_bytes:
            return 507, "too many clips are kept just now; come again later"
        return None

    def _kept(self) -> int:
        """Bytes of all clips and pictures that are not deleted yet."""
        kept = 0
        for file in Path(self._folder).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                kept += file.stat().st_size
        return kept


async def _discard(receive: Any) -> None:
    """Lets a refused upload pass: a sender that is not heard to the end does not see the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while (await receive()).get("more_body"):
                pass


def _picture(gradio: Any, label: str, name: str) -> Any:
    gradio.Markdown(f"### {label}")
    return gradio.Image(
        label=label, show_label=False, elem_id=name, buttons=["download", "fullscreen"]
    )


def _described(answers: Answers, limits: Limits) -> str:
    c = answers.model.config
    task = f"{len(answers.names)} classes" if answers.names else "pre-trained, without classes"
    return (
        f"ViT {c.variant}, {task}, {c.num_frames} frames of {c.image_size}×{c.image_size} pixels. "
        f"Clips of up to {limits.seconds:g} seconds and {limits.megabytes:g} MB; they stay on this "
        "machine and are deleted after about an hour."
    )


def serve(answers: Answers, guesses: Guesses | None, limits: Limits, where: socket.socket) -> None:
    """Serves the page on a listening socket until it is stopped."""
    clip_bytes = round(limits.megabytes * 1e6)
    with tempfile.TemporaryDirectory(prefix="vmae_jax-demo-") as folder:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_OFFLINE": "1",
        }
        import fastapi
        import gradio
        import uvicorn

        font = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            build(answers, guesses, limits),
            path="/",
            max_file_size=clip_bytes,
            ssr_mode=False,
            theme=gradio.themes.Default(**font),
            head=HEAD,
            footer_links=[],
        )
        bounded = Bounded(app, folder, clip_bytes)
        # The server raises the signal again that ended it: the folder of clips goes first.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        uvicorn.Server(uvicorn.Config(bounded, log_level="warning")).run(sockets=[where])
