r"""Curates short videos with metadata into a dataset directory that training reads.

Nothing is collected: the manifest names files that you have the right to use. Rows are checked,
hashtags selected, scenes cut, clips judged and copies removed; OUT is a dataset directory with a
data card (data_card.html), and OUT/curation says of every row and clip what became of it (in these
CSV files, text that begins with = + - or @ has a ' in front, for spreadsheets). Stopped or killed,
the same command goes on where it was; other rules need no second look at the videos.

  # a CSV, JSONL or Parquet file with the column path, and perhaps id, hashtags, views, author, ...
  python -m vmae_jax.data.curate --manifest=crawl.csv --root=videos --out=datasets/curated

  # as in the paper: popular hashtags, the longest scene of each video, people in it
  python -m vmae_jax.data.curate --manifest=crawl.parquet --root=videos --out=datasets/curated \
      --min_views=5000000 --people_model=yolo.onnx --min_people=0.5

  # nothing that a test set holds; nested subsets for a study of scale
  python -m vmae_jax.data.curate --manifest=crawl.csv --root=videos --out=datasets/curated \
      --against=datasets/ucf101:train+val --subset=6000,25000

  # on a Beam cluster; videos and OUT on a file system that all share
  python -m vmae_jax.data.curate --manifest=crawl.csv --root=/mnt/videos --out=/mnt/curated \
      --beam_options=runner=FlinkRunner,flink_master=host:8081
"""

import os
import shlex
import sys

from absl import app, flags

from vmae_jax import command
from vmae_jax.data.build import BuildError
from vmae_jax.data.build.transcode import Encoding
from vmae_jax.data.clips import CODECS
from vmae_jax.data.curate import Settings, curate, hashtags, people, subsets, unique
from vmae_jax.data.curate.examine import ExamineSettings
from vmae_jax.data.curate.gates import GateLimits
from vmae_jax.data.curate.hashtags import CHOICES, HashtagRules
from vmae_jax.data.curate.items import CurationError
from vmae_jax.data.curate.scenes import MODES, ClipRules
from vmae_jax.progress import Progress

_MANIFEST = flags.DEFINE_string(
    "manifest", None, "CSV, JSONL or Parquet file: a row for each video.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Dataset directory to make or to finish.", required=True)
_ROOT = flags.DEFINE_string("root", None, "Folder or URL of the videos [that of the manifest].")
_AUTHOR_KEY = flags.DEFINE_string(
    "author_key", "VMAE_AUTHOR_KEY",
    "Environment variable with a secret: authors are kept as keyed hashes under it, else not.",
)  # fmt: skip

_MIN_VIEWS = flags.DEFINE_integer(
    "min_views", 0, "Leave out hashtags of fewer views; the paper: 5,000,000."
)
_HASHTAG_VIEWS = flags.DEFINE_string(
    "hashtag_views", None, "CSV hashtag,views [the sum over the manifest's videos]."
)
_MIN_VIDEOS = flags.DEFINE_integer("min_videos", 0, "Leave out hashtags of fewer videos.")
_MAX_VIDEOS = flags.DEFINE_integer("max_videos", 0, "At most so many videos of a hashtag; 0 = all.")
_CHOOSE = flags.DEFINE_enum(
    "choose", CHOICES[0], CHOICES, "Which ones --max_videos takes: at random, or the most viewed."
)
_SYNONYMS = flags.DEFINE_string(
    "synonyms", None, "CSV: a group of hashtags a line, counted under the first."
)
_EXCLUDE = flags.DEFINE_string("exclude", None, "File of hashtags whose videos are left out.")
_IGNORE = flags.DEFINE_string("ignore", None, "File of hashtags that are taken off the videos.")

_CLIPS = flags.DEFINE_enum("clips", MODES[0], MODES, "Which scenes of a video become clips.")
_WINDOW_SECONDS = flags.DEFINE_float(
    "window_seconds",
    ClipRules.window_seconds,
    "Longer scenes are cut to windows of so many seconds; 0 = never.",
)
_LIMITS = {
    "min_seconds": "Length of a clip in seconds.",
    "max_seconds": "Length of a clip in seconds.",
    "min_short_side": "Pixels of the video's shorter side.",
    "min_fps": "Frames per second of the video.",
    "max_black": "Share of the time with a black picture.",
    "min_brightness": "Mean brightness, where white is 1.",
    "max_slideshow": "Share of the time in stills that follow upon each other.",
    "max_still": "Share of the time in which nothing moves.",
    "max_bars": "Share of the picture under bars (letterbox).",
    "min_sharpness": "Sharpness of the sharpest edges, 0 to 1.",
    "max_text": "Share of the picture under standing text.",
    "min_people": "Share of the time with a person; needs --people_model.",
}
for _name, _help in _LIMITS.items():
    flags.DEFINE_float(_name, getattr(GateLimits, _name), f"{_help} 0 = no limit.", lower_bound=0)
_PEOPLE_MODEL = flags.DEFINE_string(
    "people_model", None, "ONNX detector of the YOLO family: class 0 is a person."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    ExamineSettings.max_pixels,
    "Leave out videos with larger frames (width x height).",
)
_MAX_BYTES = flags.DEFINE_integer("max_bytes", ExamineSettings.max_bytes, "Leave out larger files.")
_MAX_LENGTH = flags.DEFINE_float(
    "max_length", ExamineSettings.max_seconds, "Leave out longer videos; seconds."
)

_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", ExamineSettings.max_frames, "Leave out videos of more frames."
)

_UNIQUE = flags.DEFINE_bool("unique", True, "Remove copies.")
_AGAINST = flags.DEFINE_multi_string(
    "against", [], "Leave out what another set holds: a curated set, or DATASET:SPLIT[+SPLIT]."
)
_SUBSET = flags.DEFINE_string("subset", "", "Sizes of nested subsets, in clips: 6000,25000.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides whatever is chosen at random.")

_NAME = flags.DEFINE_string("name", "videos", "Name of the data set, part of its file names.")
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side", Encoding.short_side, "Pixels of the clips' short side."
)
_CODEC = flags.DEFINE_enum("codec", Encoding.codec, CODECS, "How the clips are encoded.")
_NUM_SHARDS = flags.DEFINE_integer("num_shards", 0, "Shards per split; 0 = by number of videos.")
_FOUND = flags.DEFINE_string(
    "found", None, "Folder that keeps what was found in videos, for several sets [OUT.found]."
)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes on this machine; 0 = one per core.")
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options", None, "Through Beam, as in runner=DirectRunner,direct_num_workers=2."
)


def settings() -> Settings:
    """The settings of the command line.

    Raises:
      CurationError: where one is wrong, or names a file that cannot be read.
    """
    limits = {name: type(getattr(GateLimits, name))(flags.FLAGS[name].value) for name in _LIMITS}
    if limits["min_people"] and not _PEOPLE_MODEL.value:
        raise CurationError("--min_people: needs a detector: --people_model=yolo.onnx")
    return Settings(
        hashtags=HashtagRules(
            synonyms=hashtags.read_synonyms(_SYNONYMS.value) if _SYNONYMS.value else {},
            excluded=hashtags.read_hashtags(_EXCLUDE.value) if _EXCLUDE.value else frozenset(),
            ignored=hashtags.read_hashtags(_IGNORE.value) if _IGNORE.value else frozenset(),
            min_views=_MIN_VIEWS.value,
            views=hashtags.read_views(_HASHTAG_VIEWS.value) if _HASHTAG_VIEWS.value else None,
            min_videos=_MIN_VIDEOS.value,
            max_videos=_MAX_VIDEOS.value,
            choose=_CHOOSE.value,
            seed=_SEED.value,
        ),
        look=ExamineSettings(
            clips=ClipRules(
                _CLIPS.value,
                limits["min_seconds"] if _CLIPS.value == "all" else ClipRules.min_seconds,
                _WINDOW_SECONDS.value,
            ),
            detector=people.check_model(_PEOPLE_MODEL.value) if _PEOPLE_MODEL.value else None,
            max_bytes=_MAX_BYTES.value,
            max_seconds=_MAX_LENGTH.value,
            max_frames=_MAX_FRAMES.value,
            max_pixels=_MAX_PIXELS.value,
        ),
        gates=GateLimits(**limits),
        copies=unique.Limits() if _UNIQUE.value else None,
        against=tuple(map(_path_and_split, _AGAINST.value)),
        subsets=subsets.parse_sizes(_SUBSET.value),
        seed=_SEED.value,
        encoding=Encoding(
            _CODEC.value,
            _SHORT_SIDE.value,
            max_pixels=_MAX_PIXELS.value,
            max_frames=_MAX_FRAMES.value,
        ),
        name=_NAME.value,
        num_shards=_NUM_SHARDS.value,
    )


def _path_and_split(value: str) -> tuple[str, str]:
    path, colon, split = value.rpartition(":")
    named = colon and "/" not in split and not os.path.exists(value)
    return (path, split) if named else (value, "")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]}: see --help")
    if _ROOT.value and "://" not in _ROOT.value and not os.path.isdir(_ROOT.value):
        raise CurationError(f"--root={_ROOT.value}: no such folder")
    with Progress() as progress:
        story = curate(
            _MANIFEST.value, _OUT.value, settings(), root=_ROOT.value,
            author_key=os.environ.get(_AUTHOR_KEY.value, ""), workers=_WORKERS.value,
            beam_options=_BEAM_OPTIONS.value, found=_FOUND.value, progress=progress,
        )  # fmt: skip
    out = _OUT.value
    data = f"--config.data.dataset={shlex.quote(out)} --config.data.split={story.all_splits}"
    print("\n".join(story.lines()))
    print(f"  data card    {os.path.join(out, 'data_card.html')}")
    print(f"  decisions    {os.path.join(out, 'curation')}")
    print("Next:")
    print(f"  python -m vmae_jax.main --config=configs/quickstart.py {data}")


def cli() -> None:
    again = "python -m vmae_jax.data.curate " + shlex.join(sys.argv[1:])
    stopped = f"Stopped. The same command continues it:\n  {again}"
    command.run(main, (CurationError, BuildError), stopped=stopped)


if __name__ == "__main__":
    cli()
