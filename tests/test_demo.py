"""The demo's page: what it shows, who is refused and how, several people at once, no other host."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import browser
import cv2
import numpy as np
import pytest
from tiny_models import LABELS, checkpoint, random_weights, write_video

from vmae_jax import model as model_lib
from vmae_jax import predict
from vmae_jax.data.videos import VideoError, open_video
from vmae_jax.demo.answers import Answers, BadClipError, Guesses, Limits

LIMITS = Limits(megabytes=1, seconds=5)

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs the extra demo"
)


@pytest.fixture(scope="module")
def answers():
    model = model_lib.from_weights(random_weights())
    return Answers(model, LABELS, model.views())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips of two seconds."""
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{i}.mp4", num_frames=50, seed=i) for i in range(3)]


# ---- What it says ----


def test_probabilities_are_those_of_predict(answers, clips):
    ((_, expected),) = predict.predict(answers.model, clips[:1], answers.views)
    found = answers(LIMITS.open(clips[0])).probabilities
    assert list(found) == [LABELS[i] for i in np.argsort(-expected)[:5]]
    assert list(found.values()) == pytest.approx(np.sort(expected)[:0:-1], abs=1e-5)


def test_attention_is_drawn_where_it_is(answers, clips, monkeypatch):
    """By weights that look at the brightest patch alone, one patch of one slot would shine."""
    video = LIMITS.open(clips[0])
    looked = np.zeros((1, 2, 4, 4), np.float32)
    looked[0, 1, 2] = 1
    monkeypatch.setitem(vars(answers.model), "attention", lambda params, view: looked)
    sheet = answers(video).attention[-100:].astype(int)
    color = np.ptp(sheet, axis=-1).mean((0,))
    first, last = np.array_split(color, 2)
    assert last.mean() > 5 * first.mean() + 5


def test_without_a_head_there_are_no_classes(clips):
    model = model_lib.from_weights(random_weights("pretrain"))
    answer = Answers(model, (), model.views())(LIMITS.open(clips[0]))
    assert answer.probabilities == {}
    assert answer.frames.dtype == answer.attention.dtype == np.uint8


def test_more_is_hidden_at_a_higher_ratio(clips):
    guesses = Guesses(random_weights("pretrain"))
    hidden = [grey(guesses(LIMITS.open(clips[0]), ratio)) for ratio in (0.5, 0.9)]
    assert 0 < hidden[0].sum() < hidden[1].sum()
    assert not (hidden[0] & ~hidden[1]).any(), "what is hidden stays hidden"


def grey(sheet):
    """Where the masked frames of a reconstruction are hidden."""
    middle = np.array_split(sheet, 3, axis=1)[1]
    return (abs(middle.astype(int) - 127.5).max(-1) < 1)[50:-50]


def test_a_classifier_guesses_nothing():
    with pytest.raises(model_lib.ModelError, match="only a pre-trained model with its decoder"):
        Guesses(random_weights())


def test_long_and_broken_clips_are_refused_in_one_line(clips, tmp_path):
    with pytest.raises(BadClipError, match=r"^too long: more than 1 seconds$"):
        Limits(1, 1).open(clips[0])
    text = tmp_path / "private" / "notes.mp4"
    text.parent.mkdir()
    text.write_text("no video")
    with pytest.raises(BadClipError, match=r"^cannot be opened: ") as found:
        LIMITS.open(str(text))
    assert "private" not in str(found.value), "where the server keeps it is nobody's business"


def test_a_video_is_read_no_further_than_asked(clips):
    with pytest.raises(VideoError, match=r"too large: more than 1e\+05 pixels in all") as found:
        open_video(clips[0], max_pixels=1e5)
    assert found.value.frames < 50
    assert open_video(clips[0], max_seconds=2).num_frames == 50
    with pytest.raises(VideoError, match=r"too long: more than 1\.5 seconds") as found:
        open_video(clips[0], max_seconds=1.5)
    assert found.value.frames < 50


# ---- The page ----


@contextlib.contextmanager
def serving(folder, *flags, **environment):
    """The command in a process that writes down every address it connects to.

    Its answers wait while there is a file `hold` in the folder, and add the number of the clip's
    frames to a file `begun` there.
    """
    log = folder / "connections.txt"
    code = (
        "import pathlib, runpy, sys, time\n"
        "from vmae_jax.demo.answers import Answers\n"
        f"folder, answer = pathlib.Path({str(folder)!r}), Answers.__call__\n"
        "def held(self, video):\n"
        "    print(video.num_frames, file=open(folder / 'begun', 'a'))\n"
        "    while (folder / 'hold').exists(): time.sleep(0.02)\n"
        "    return answer(self, video)\n"
        "Answers.__call__ = held\n"
        f"log = open({str(log)!r}, 'a', buffering=1)\n"
        "seen = {'socket.connect': 1, 'socket.getaddrinfo': 0}\n"
        "def hook(event, args):\n"
        "    if event in seen: print(args[seen[event]], file=log)\n"
        "sys.addaudithook(hook)\n"
        "runpy.run_module('vmae_jax.demo', run_name='__main__', alter_sys=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--port=0", "--max_seconds=5", "--max_megabytes=1", *flags],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"XLA_FLAGS": ""} | environment,
    )  # fmt: skip
    try:
        url = next(line.split()[0] for line in process.stdout if line.startswith("http"))
        yield url, log
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    weights = checkpoint(folder), checkpoint(folder, "pretrain")
    with serving(folder, f"--checkpoint={weights[0]}", f"--pretrained={weights[1]}") as found:
        yield found


def upload(url, content, name="clip.mp4", times=1):
    """As a browser does: the path of the file on the server, or the first of several."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = (head.encode() + content + b"\r\n") * times + f"--{mark}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    with request(f"{url}/gradio_api/upload", body, kind) as answer:
        return json.load(answer)[0]


def request(url, body=None, headers=None):
    asked = urllib.request.Request(url, body, headers or {"Content-Type": "application/json"})
    return urllib.request.urlopen(asked, timeout=120)


def ask(url, path, *rest, function="answer", stream=False):
    """What the page's function says of a file on the server: the event's name and its data."""
    call = f"{url}/gradio_api/call/{function}"
    file = {"path": path, "is_stream": stream, "meta": {"_type": "gradio.FileData"}}
    with request(call, json.dumps({"data": [file, *rest]}).encode()) as answer:
        event = json.load(answer)["event_id"]
    with request(f"{call}/{event}") as answer:
        *_, name, data = (line for line in answer.read().decode().splitlines() if line)
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def picture(url, file):
    with request(f"{url}/gradio_api/file={file['path']}") as answer:
        return cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)


@needs_gradio
def test_a_clip_is_answered(server, answers, clips):
    url, _ = server
    path = upload(url, Path(clips[0]).read_bytes())
    event, (found, frames, attention) = ask(url, path)
    assert event == "complete"
    expected = answers(LIMITS.open(clips[0])).probabilities
    assert {c["label"]: c["confidence"] for c in found["confidences"]} == pytest.approx(
        expected, abs=1e-4
    )
    assert picture(url, frames).shape[1] > 400
    assert picture(url, attention).shape[1] > 400
    event, (guess,) = ask(url, path, 0.9, function="guess")
    assert event == "complete"
    assert picture(url, guess).shape[1] > 1000


@needs_gradio
def test_several_people_at_once_get_their_own_answers(server, answers, clips):
    url, _ = server
    paths = [upload(url, Path(clip).read_bytes()) for clip in clips]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda path: ask(url, path), paths * 2))
    for clip, (event, (classes, *_)) in zip(clips * 2, found, strict=True):
        assert event == "complete"
        best = next(iter(answers(LIMITS.open(clip)).probabilities))
        assert classes["label"] == best


@needs_gradio
def test_bad_files_are_answered_politely(server, clips, tmp_path):
    url, _ = server
    event, data = ask(url, upload(url, b"no video"))
    assert event == "error"
    assert data["error"].startswith("cannot be opened: ")
    assert "\n" not in data["error"]
    long = Path(write_video(tmp_path / "long.mp4", num_frames=25 * 6)).read_bytes()
    assert ask(url, upload(url, long))[1]["error"] == "too long: more than 5 seconds"
    with pytest.raises(urllib.error.HTTPError) as refused:
        upload(url, bytes(1_100_000))
    assert refused.value.code == 413
    assert ask(url, upload(url, Path(clips[0]).read_bytes()))[0] == "complete", "it goes on"


@needs_gradio
def test_uploads_are_bounded_together(clips, tmp_path):
    """Many files in one request, many requests; a clip that fits is kept, and gone at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    flags = (f"--checkpoint={checkpoint(tmp_path)}", "--max_megabytes=0.02")
    with serving(tmp_path, *flags, TMPDIR=str(folder)) as (url, _):
        with pytest.raises(urllib.error.HTTPError) as refused:
            upload(url, bytes(15_000), times=100)
        assert refused.value.code == 413
        found = []
        for _ in range(40):
            try:
                upload(url, os.urandom(19_000))
            except urllib.error.HTTPError as error:
                found.append((error.code, json.load(error)["detail"]))
        assert set(found) == {(507, "too many clips are kept just now; come again later")}
        (kept,) = folder.iterdir()
        size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        assert 200_000 < size < 400_000, "twenty clips' worth"
    assert list(folder.iterdir()) == []


@needs_gradio
def test_nothing_is_read_but_uploads(server, clips):
    url, log = server
    for path in (clips[0], f"{clips[0]}/../0.mp4", "http://192.0.2.1/clip.mp4"):
        for stream in (False, True):
            event, data = ask(url, path, stream=stream)
            assert (event, data["error"]) == ("error", "drop a video file first")
    assert "192.0.2.1" not in log.read_text()
    with pytest.raises(urllib.error.HTTPError) as refused:
        request(f"{url}/gradio_api/file={clips[0]}")
    assert refused.value.code == 403


@needs_gradio
@pytest.mark.skipif(browser.find() is None, reason="needs Chromium")
def test_in_a_browser_from_the_clip_to_the_guess(server, answers, clips, tmp_path):
    url, log = server
    hold, begun = log.with_name("hold"), log.with_name("begun")
    other = write_video(tmp_path / "other.mp4", num_frames=30, seed=9)
    (tmp_path / "bad.mp4").write_text("no video")
    best = next(iter(answers(LIMITS.open(clips[0])).probabilities))
    with browser.open_browser() as page:
        page.open(url)
        page.wait("!!document.querySelector('#clip input[type=file]')")
        # Somebody thinks better of it while the first clip is looked at.
        hold.touch()
        begun.unlink(missing_ok=True)
        page.drop("#clip input[type=file]", other)
        while not begun.exists():
            page.wait("true")
        page.wait("!!document.querySelector('#clip button[aria-label=Clear]')")
        page.run("document.querySelector('#clip button[aria-label=Clear]').click()")
        page.wait("!!document.querySelector('#clip input[type=file]')")
        page.drop("#clip input[type=file]", clips[0])
        page.wait("!!document.querySelector('#clip video')")
        hold.unlink()
        for name in ("frames", "attention", "guess"):
            page.wait(f"document.querySelector('#{name} img')?.naturalWidth > 400")
        page.wait(f"document.querySelector('#classes h2')?.innerText == {best!r}")
        before = page.run("document.querySelector('#guess img').src")
        page.run(
            "(slider => {slider.value = 0.5; slider.dispatchEvent(new Event('input'));"
            "slider.dispatchEvent(new PointerEvent('pointerup', {bubbles: true}))})"
            "(document.querySelector('input[type=range]'))"
        )
        page.wait(f"document.querySelector('#guess img')?.src != {before!r}")
        assert begun.read_text().split() == ["30", "50"]
        page.screenshot(tmp_path / "page.png")
        page.open(url)
        page.wait("!!document.querySelector('#clip input[type=file]')")
        page.drop("#clip input[type=file]", tmp_path / "bad.mp4")
        page.wait("document.body.innerText.includes('cannot be opened: ')")
        elsewhere = [u for u in page.requests if not u.startswith((url, "data:", "blob:"))]
    assert not elsewhere
    shot = cv2.imread(str(tmp_path / "page.png"))
    assert shot.shape[0] > 800
    assert np.unique(shot.reshape(-1, 3), axis=0).shape[0] > 1000, "pictures are on it"


@needs_gradio
def test_nothing_is_told_to_another_machine(server):
    """Last, so that all of the above has happened."""
    _, log = server
    lines = set(log.read_text().splitlines()) if log.exists() else set()
    known = ("127.0.0.1", "localhost", "('127.0.0.1'", "('::1'", "/", "b'/", "None")
    assert [line for line in lines if not line.startswith(known)] == []


# ---- The command ----


def demo(*flags):
    return subprocess.run(
        [sys.executable, "-m", "vmae_jax.demo", *flags],
        capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""},
    )  # fmt: skip


@needs_gradio
def test_what_cannot_start_is_one_line(server, tmp_path):
    url, _ = server
    path, port = checkpoint(tmp_path), url.rpartition(":")[2]
    done = demo(f"--checkpoint={path}", f"--port={port}")
    assert done.returncode == 1
    assert "cannot be listened on (Address already in use)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = demo(f"--checkpoint={path}", f"--pretrained={path}", "--port=0")
    assert "only a pre-trained model with its decoder guesses" in done.stderr
    assert len(done.stderr.splitlines()) == 1
