"""What is measured, and where numbers and pictures go: terminal, JSONL file and TensorBoard.

The writers have the interface of `clu.metric_writers` (`write_scalars`, `write_images`, `flush`,
`close`), which itself imports TensorFlow and so is not used.
"""

import contextlib
import io
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from etils import epath

from vmae_jax import hardware
from vmae_jax.config import Config
from vmae_jax.progress import Progress

FRAME_MILLISECONDS = 125  # of pictures that play
STEPS_IN_FLIGHT = 2  # steps the host may run ahead of the device


class DivergedError(RuntimeError):
    """Too many steps in a row without a finite loss and gradient."""


class Meter:
    """Turns finished steps into logged numbers, and counts skipped ones.

    At most STEPS_IN_FLIGHT steps are pending: reading an older step's numbers waits for it, which
    keeps the host from running away from the device.
    """

    def __init__(self, config: Config, clips: int, flops_per_clip: float):
        self._limit, self._clips = config.train.max_skipped, clips
        chip = hardware.of_kind(jax.devices()[0].device_kind)
        self._flops = flops_per_clip / (chip.flops * jax.device_count()) if chip else None
        self._pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self._in_a_row, self.skipped = 0, 0
        self.restart()

    def restart(self) -> None:
        self._began, self._steps, self.waited = time.perf_counter(), 0, 0.0

    def add(self, step: int, step_metrics: dict[str, jax.Array]) -> None:
        self._pending.append((step, step_metrics))
        self._steps += 1
        if len(self._pending) > STEPS_IN_FLIGHT:
            self._retire()

    def drain(self) -> dict[str, float]:
        """Waits for every pending step; the last one's numbers."""
        last = {}
        while self._pending:
            last = self._retire()
        return last

    def _retire(self) -> dict[str, float]:
        step, step_metrics = self._pending.popleft()
        values = {k: v.item() for k, v in jax.device_get(step_metrics).items()}
        skipped = values.pop("skipped")
        self.skipped += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= self._limit:
            raise DivergedError(
                f"step {step}: {self._in_a_row} steps in a row had no finite loss and gradient "
                f"(loss {values['loss']}, gradient norm {values['grad_norm']}); lower "
                "optim.base_lr, set optim.clip_norm or look at the data"
            )
        return values

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What is done within does not count as time of training."""
        paused = time.perf_counter()
        yield
        self._began += time.perf_counter() - paused

    def speed(self) -> dict[str, float]:
        """Clips per second and the share of time spent waiting for data, since `restart`."""
        spent = time.perf_counter() - self._began
        rate = self._steps * self._clips / spent
        numbers = {"clips_per_second": rate, "data_wait": self.waited / spent}
        if self._flops:
            numbers["mfu"] = rate * self._flops
        self.restart()
        return numbers


class MetricWriter(Protocol):
    """The part of `clu.metric_writers.MetricWriter` that training uses."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...
    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object per line. Lines past `start` are dropped: a resumed run writes them again."""

    def __init__(self, path: str, start: int):
        self.path = epath.Path(path)
        kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= start]
        draft = self.path.with_name(self.path.name + ".incomplete")
        draft.write_text("".join(line + "\n" for line in kept))
        draft.replace(self.path)  # a kill loses no line
        self._file = self.path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Pictures are files of their own."""

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines(path: epath.Path) -> list[str]:
    """Whole lines of a JSONL file; a line that a kill cut short is not one."""
    if not path.exists():
        return []
    text = path.read_text()
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


class TensorBoardWriter:
    """Event files. Events past `start`, left by a killed run, are hidden by TensorBoard."""

    def __init__(self, directory: str, start: int):
        self._writer = _summary_writer()(directory, purge_step=start + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        stills = {name: image for name, image in images.items() if image.ndim == 3}
        for name, image in stills.items():
            self._writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _summary_writer() -> type:
    """tensorboardX's SummaryWriter, without PyTorch: it takes what is there, and takes seconds."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # not to be imported
    try:
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules["torch"]
    return SummaryWriter


class TerminalWriter:
    """The run's progress, with the loss and the speed; reports as lines of their own."""

    def __init__(self, name: str, start: int, steps: int):
        self._name, self._steps, self._progress = name, steps, Progress("step")
        self.advance(start)

    def advance(self, step: int) -> None:
        self._progress(self._name, step, self._steps)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if "loss" not in scalars:  # a report
            parts = [f"{name} {value:.2f}" for name, value in scalars.items()]
            self._progress.write(f"step {step}/{self._steps}  " + "  ".join(parts))
            return
        short = {"loss": "{:.4f}", "clips_per_second": "{:.1f} clips/s", "data_wait": "wait {:.0%}"}
        parts = [form.format(scalars[k]) for k, form in short.items() if k in scalars]
        parts[0] = f"loss {parts[0]}"
        if scalars.get("bad_records"):
            parts.append(f"{scalars['bad_records']:.0f} bad records")
        if scalars.get("skipped"):
            parts.append(f"{scalars['skipped']:.0f} skipped")
        self._progress(self._name, step, self._steps, ", ".join(parts))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """A terminal shows none."""

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._progress.close()


class MultiWriter:
    """Sends everything to several writers."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for writer in self._writers:
            writer.write_images(step, images)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def write_picture(folder: epath.Path, name: str, image: np.ndarray) -> epath.Path:
    """Writes a picture as PNG, or several as one WebP that plays them; the file's path."""
    kind, write = ("png", write_png) if image.ndim == 3 else ("webp", write_webp)
    path = folder / f"{name}.{kind}"
    write(path, image)
    return path


def write_png(path: epath.Path, image: np.ndarray) -> None:
    """Writes RGB uint8 [height, width, 3], making the folder where there is none."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def write_webp(path: epath.Path, frames: np.ndarray) -> None:
    """Writes RGB or RGBA uint8 [T, height, width, 3 or 4], to be played over and over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(webp(frames))


def webp(frames: np.ndarray) -> bytes:
    """The file of `write_webp`."""
    from PIL import Image

    first, *rest = map(Image.fromarray, frames)
    file = io.BytesIO()
    first.save(
        file, "WEBP", save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0,
        quality=85, minimize_size=False,
    )  # fmt: skip
    return file.getvalue()
