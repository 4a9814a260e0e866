r"""What is going on in a clip: the five most probable classes of each video.

Takes a run's workdir, a public VideoMAE or VideoMAE V2 checkpoint (.pth, .bin, .safetensors) or a
Hugging Face directory, and video files of any kind, folders (with their subfolders) and patterns.
A clip that cannot be read is reported, and the others still run. Corrections in the times of a clip
are reported too, and with --keep_partial what was skipped as damaged.

  # the classes that a run was fine-tuned on
  python -m vmae_jax.predict --checkpoint=runs/mine clip.mp4 more_clips/ 'even/**/more.*'

  # a public file, which does not name its classes: one name per line, CSV or JSON
  python -m vmae_jax.predict --checkpoint=vit_b_k400.pth --labels=label_map_k400.txt clip.mp4

  # as in the papers' tables, which average 5 x 3 views; for a program to read
  python -m vmae_jax.predict --checkpoint=runs/mine --clips=5 --crops=3 --json clips/ > clips.jsonl

By default a video is seen once: frames from its middle, as far apart as in the run's training
(every fourth for other checkpoints), and the square in the middle of them. For each clip a picture
of the frames that were used is left in --out.

Exit status: 0 every clip was answered, 1 at least one was not or has no picture, or nothing could
start.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from etils import epath

from vmae_jax import class_order, cli, command, metrics, viz, whole
from vmae_jax import model as model_lib
from vmae_jax.convert import files
from vmae_jax.data import inputs
from vmae_jax.data.videos import VideoError, open_video
from vmae_jax.data.views import EvalViews

TOP = 5


@dataclasses.dataclass(frozen=True)
class Shown:
    """The part of a video that the model is shown, or why there is none."""

    clip: str
    error: str = ""
    num_frames: int = 0
    notes: tuple[str, ...] = ()  # what was put right in its times, or skipped as damaged
    numbers: np.ndarray | None = None  # i64 [V, T], of the frames in the video
    views: np.ndarray | None = None  # u8 [V, T, S, S, 3]


def show(clip: str, views: EvalViews, keep_partial: bool = False) -> Shown:
    """Reads the views of a video file."""
    try:
        video = open_video(clip, keep_partial=keep_partial)
        pixels = views.of_file(video)
    except VideoError as error:
        return Shown(clip, error=str(error))
    numbers = views.indices(video.num_frames).repeat(views.crops, axis=0)
    return Shown(clip, "", video.num_frames, video.notes, numbers, pixels)


def predict(
    model: model_lib.Model,
    clips: Sequence[str],
    views: EvalViews,
    threads: int = 2,
    keep_partial: bool = False,
) -> Iterator[tuple[Shown, np.ndarray | None]]:
    """What the model was shown of each clip, in order, and its probabilities f32 [C].

    Probabilities are None where the clip could not be read; `Shown.error` says why.

    Raises:
      ModelError: where the model has no head.
    """
    apply = model.apply  # of one view at a time: one shape to compile, and no more memory

    def read(clip: str) -> Iterator[Shown]:
        yield show(clip, views, keep_partial)

    for shown in inputs.interleave([read(clip) for clip in clips], threads):
        probabilities = None
        if not shown.error:
            logits = [apply(model.params, view[None]) for view in shown.views]
            probabilities = np.asarray(jax.nn.softmax(jnp.concatenate(logits)).mean(0))
        yield shown, probabilities


# ---- Names of classes ----


def class_names(labels: str | None, model: model_lib.Model) -> tuple[str, ...]:
    """From the file `labels`, else from the checkpoint, else numbers.

    Raises:
      ConversionError: where the file cannot be read.
      ModelError: where it has another number of names than the head has classes, or those that the
        checkpoint holds in another order.
    """
    count = model.num_classes
    names = model.label_names or tuple(f"class {i}" for i in range(count))
    if labels:
        names = files.read_names(labels)
    if len(names) != count:
        raise model_lib.ModelError(
            f"{f'--labels={labels}' if labels else 'the checkpoint'} names {len(names)} classes, "
            f"the head tells {count} apart"
        )
    if conflict := class_order.conflict(names, model.label_names):
        raise model_lib.ModelError(f"--labels={labels}: {conflict}")
    return names


# ---- Out ----


class _Pictures:
    """Writes the frames that were used, one PNG per clip, named after it."""

    def __init__(self, folder: str):
        self._folder, self._taken = epath.Path(folder), set()

    def write(self, shown: Shown, caption: str) -> str:
        stem = os.path.splitext(os.path.basename(shown.clip))[0]
        name, number = whole.named(stem, ".png"), 1
        while name in self._taken:  # clips of one name in several folders
            number += 1
            name = whole.named(stem, f"-{number}.png")
        self._taken.add(name)
        path = self._folder / name
        metrics.write_png(path, viz.frames_sheet(shown.views, shown.numbers, caption))
        return str(path)


def top(probabilities: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The most probable classes, at most five: class number, label and probability."""
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    return [
        {"class": int(i), "label": names[i], "probability": round(float(probabilities[i]), 6)}
        for i in best
    ]


def _table(shown: Shown, answers: list[dict[str, Any]], picture: str) -> str:
    first, last = int(shown.numbers.min()), int(shown.numbers.max())
    lines = [f"\n{shown.clip}  (frames {first} to {last} of {shown.num_frames})"]
    lines += [f"  note      {note}" for note in shown.notes]
    lines += [f"  {100 * a['probability']:6.2f} %  {a['label']}" for a in answers]
    return "\n".join(lines + ([f"  frames    {picture}"] if picture else []))


def _as_json(shown: Shown, answers: list[dict[str, Any]], picture: str) -> str:
    found = {
        "clip": shown.clip,
        "top": answers,
        "num_frames": shown.num_frames,
        "frames": shown.numbers.tolist(),
        "picture": picture or None,
    }
    return json.dumps(found | ({"notes": shown.notes} if shown.notes else {}))


def run(
    clips: Sequence[str],
    model: model_lib.Model,
    names: Sequence[str],
    views: EvalViews,
    *,
    out: str = "",
    as_json: bool = False,
    threads: int = 2,
    keep_partial: bool = False,
) -> list[str]:
    """Prints an answer for each clip and leaves its picture in `out`, unless that is empty.

    Args:
      keep_partial: goes on after damage in a clip, see `videos.open_video`.

    Returns:
      Of each clip without an answer or its picture, why.
    """
    pictures = _Pictures(out) if out else None
    failures = []
    for shown, probabilities in predict(model, clips, views, threads, keep_partial):
        if probabilities is None:
            failures.append(shown.error)
            line = json.dumps({"clip": shown.clip, "error": shown.error})
            print(line if as_json else f"\nnot answered: {shown.error}", flush=True)
            continue
        answers = top(probabilities, names)
        caption = f"{answers[0]['label']}, {100 * answers[0]['probability']:.1f} %"
        picture = ""
        try:
            picture = pictures.write(shown, caption) if pictures else ""
        except OSError as error:
            failures.append(f"{shown.clip} has no picture: {command.said(error)}")
        print((_as_json if as_json else _table)(shown, answers, picture), flush=True)
    return failures


def define_flags() -> None:
    cli.define_flags()
    flags.DEFINE_integer(
        "stride",
        0,
        "Frames from one to the next of a clip (dense sampling). 0 = as in the run's training; 4 "
        "for other checkpoints.",
        lower_bound=0,
    )
    cli.define_labels_flag()
    flags.DEFINE_string(
        "out", os.path.join("runs", "predict"), "Folder of the pictures; empty = no pictures."
    )
    flags.DEFINE_bool("json", False, "Print one JSON object per clip and line, and no table.")


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if not argv[1:]:
        raise app.UsageError("no clip given: name video files, folders or patterns; see --help")
    cli.prepare()
    clips = inputs.find(argv[1:], leave_out=given.out)
    model = cli.load_model()
    names = class_names(given.labels, model)
    print(model, file=sys.stderr if given.json else sys.stdout, flush=True)
    views = model.views(given.clips, given.crops, sampling=given.sampling, stride=given.stride)
    failures = run(
        clips, model, names, views, out=given.out, as_json=given.json, threads=given.threads,
        keep_partial=given.keep_partial,
    )  # fmt: skip
    if failures:
        count = f"{len(failures)} of {len(clips)}"
        hint = cli.damage_hint(failures)
        command.fail(f"{count} clips could not be answered in full, such as {failures[0]}{hint}")


if __name__ == "__main__":
    define_flags()
    command.run(main, cli.ERRORS)
