r"""Turns a folder of raw videos into a dataset directory that training reads.

Takes any container and codec that FFmpeg decodes; writes short clips with a constant frame rate and
a key frame every 16 frames, in checksummed shards. A video that does not decode, or breaks midway,
is left out and listed with its reason in OUT/report.json. Stopped or killed, the same command
goes on where it was; finished shards are kept.

  # every file below videos/, without labels
  python -m vmae_jax.data.build --videos=videos --out=datasets/mine

  # videos/<class>/<file>, a tenth of them for validation
  python -m vmae_jax.data.build --videos=videos --out=datasets/mine --labels=folders \
      --split=train:0.9,val:0.1

  # labels and splits from a CSV (path,label[,split]); long videos cut into clips of 4 seconds
  python -m vmae_jax.data.build --videos=videos --out=datasets/mine --labels=labels.csv \
      --segment_seconds=4

  # benchmarks as their owners ship them, with the numbers of classes that public checkpoints have
  python -m vmae_jax.data.build --benchmark=ucf101:1 --videos=UCF-101 \
      --annotations=ucfTrainTestlist --out=data/ucf101
  python -m vmae_jax.data.build --benchmark=hmdb51:1 --videos=hmdb51 \
      --annotations=testTrainMulti_7030_splits --out=data/hmdb51
  python -m vmae_jax.data.build --benchmark=kinetics400 --videos=k400 \
      --annotations=k400/annotations --out=data/k400  # and kinetics600, kinetics700
  python -m vmae_jax.data.build --benchmark=kinetics600 --videos=k600 \
      --annotations=k600/annotations --label_map=VideoMAEv2/misc --out=data/k600  # in its order
  python -m vmae_jax.data.build --benchmark=kinetics710 --videos=kinetics \
      --annotations=csv --label_map=VideoMAEv2/misc --out=data/k710  # k400, k600, k700 in both
  python -m vmae_jax.data.build --benchmark=ssv2 --videos=20bn-something-something-v2 \
      --annotations=labels --out=data/ssv2

  # on a Beam cluster (pip install 'vmae_jax[build]'); OUT and videos on a file system all share
  python -m vmae_jax.data.build --videos=/mnt/videos --out=/mnt/datasets/mine \
      --beam_options=runner=FlinkRunner,flink_master=host:8081
"""

import functools

from absl import app, flags

from vmae_jax import command
from vmae_jax.data.build import BuildError, build, next_step
from vmae_jax.data.build.benchmarks import BENCHMARKS, MAX_MISSING
from vmae_jax.data.build.manifest import EMPTY_LABELS
from vmae_jax.data.build.transcode import Encoding
from vmae_jax.data.clips import CODECS
from vmae_jax.data.records import class_order
from vmae_jax.progress import Progress

_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder of videos (searched with its subfolders), or a text file of paths.",
    required=True,
)
_OUT = flags.DEFINE_string("out", None, "Dataset directory to make or to finish.", required=True)
_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "'folders': the class is the name of a video's folder; or a table with the columns "
    "path,label[,split]. Without it, videos have no label.",
)
_EMPTY_LABELS = flags.DEFINE_enum(
    "empty_labels",
    EMPTY_LABELS[0],
    EMPTY_LABELS,
    "Whether rows of the table without a label are left out, or kept without one.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Name of the split; or shares as train:0.9,val:0.1; or 'folders': the folders named train, val "
    "and test. A column split of the table overrides it. [with --labels=folders: such folders, if "
    "they lie above those of the classes; else train]",
)
_BENCHMARK = flags.DEFINE_string(
    "benchmark",
    None,
    f"Labels and splits (train, val) from the owners' files: {', '.join(BENCHMARKS)}; ucf101 and "
    "hmdb51 with one of their three splits, as ucf101:1.",
)
_ANNOTATIONS = flags.DEFINE_string("annotations", None, "Folder of a benchmark's own lists.")
_LABEL_MAP = flags.DEFINE_string(
    "label_map",
    None,
    "Numbers of Kinetics' classes: the folder misc of VideoMAE V2's repository, or a text file (a "
    "class on each line), a CSV (label,number) or JSON ({label: number}). [the sorted labels, as "
    "MMAction2 has them; kinetics710 needs one]",
)
_MAX_MISSING = flags.DEFINE_float(
    "max_missing", MAX_MISSING, "Share of a benchmark's videos that may be missing."
)
_NAME = flags.DEFINE_string("name", "videos", "Name of the data set, part of its file names.")
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side",
    Encoding.short_side,
    "Pixels of the clips' short side; smaller videos keep their size.",
)
_CODEC = flags.DEFINE_enum(
    "codec",
    Encoding.codec,
    CODECS,
    "jpeg takes about 8 times the bytes of h264 and decodes faster.",
)
_NUM_SHARDS = flags.DEFINE_integer("num_shards", 0, "Shards per split; 0 = by number of videos.")
_SEGMENT_SECONDS = flags.DEFINE_float(
    "segment_seconds",
    0.0,
    "Cut videos into clips of this length, dropping a last one shorter than "
    "half of it; 0 = one clip per video.",
)
_KEEP_PARTIAL = flags.DEFINE_bool(
    "keep_partial", False, "Keep a video whose stream breaks midway up to the break."
)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes on this machine; 0 = one per core.")
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options",
    None,
    "Build through Beam with these pipeline options: runner=DirectRunner,direct_num_workers=2",
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", Encoding.max_pixels, "Reject videos with larger frames (width x height)."
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", Encoding.max_frames, "Reject videos that give a clip with more frames than this."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; see --help")
    with Progress() as progress:
        report = build(
            _VIDEOS.value,
            _OUT.value,
            labels=_LABELS.value,
            split=_SPLIT.value,
            empty_labels=_EMPTY_LABELS.value,
            benchmark=_BENCHMARK.value,
            annotations=_ANNOTATIONS.value,
            label_map=_LABEL_MAP.value,
            max_missing=_MAX_MISSING.value,
            name=_NAME.value,
            short_side=_SHORT_SIDE.value,
            codec=_CODEC.value,
            num_shards=_NUM_SHARDS.value,
            segment_seconds=_SEGMENT_SECONDS.value,
            keep_partial=_KEEP_PARTIAL.value,
            workers=_WORKERS.value,
            beam_options=_BEAM_OPTIONS.value,
            max_pixels=_MAX_PIXELS.value,
            max_frames=_MAX_FRAMES.value,
            progress=functools.partial(progress, "videos"),
        )
    print(f"\n{report.table()}\n\ndataset: {report.out} (details in report.json there)")
    if order := class_order(report.out):
        print(f"classes: in the order of {order}")
    splits = [name for name, total in report.splits.items() if total["clips"]]
    print("\n".join(next_step.lines(report.out, splits)))


if __name__ == "__main__":
    command.run(main, (BuildError,), stopped="stopped; the same command goes on from here")
