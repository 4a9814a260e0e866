"""Decoded training clips: from shards, and as the papers' code reads them, from original files."""

import concurrent.futures
import itertools
import os

import numpy as np

from vmae_jax.bench.turns import Side, Turn
from vmae_jax.config import Config, DataConfig, ModelConfig

STRIDE = 4  # frames between sampled frames, as in the papers
BATCH = 8  # clips


def prepare(folder: str, videos: str | None) -> tuple[str, list[str]]:
    """Builds default shards of `videos`, or of a generated one: the dataset, the original files."""
    from vmae_jax.data.build import build

    if not videos:
        videos = os.path.join(folder, "originals")
        os.makedirs(videos)
        _generate_original(os.path.join(videos, "original.mp4"))
    dataset = os.path.join(folder, "dataset")
    report = build(videos, dataset)
    root = videos if os.path.isdir(videos) else os.path.dirname(os.path.abspath(videos))
    return dataset, [os.path.join(root, video["path"]) for video in report.kept]


def sides(
    dataset: str, files: list[str], model: ModelConfig, views: int, cores: int, clips: int
) -> list[Side]:
    """Ours in threads, plain and antialiased, and in worker processes, and the originals.

    All are on the same cores.
    """
    threads = (dataset, model, views, cores, 0, clips)
    found = [
        Side(f"shards, {cores} threads", shard_clips, threads),
        Side(f"shards, {cores} threads, antialiased", shard_clips, (*threads, True)),
        Side(f"originals, {cores} threads", original_clips,
             (files, model, views, cores, max(cores, clips // 8))),
    ]  # fmt: skip
    if cores > 1:
        workers = (dataset, model, views, cores, cores, clips)
        found.insert(1, Side(f"shards, {cores} worker processes", shard_clips, workers))
    return found


def open_stream(
    dataset: str,
    model: ModelConfig,
    views: int,
    threads: int,
    workers: int,
    antialias: bool = False,
):
    """Batches of `BATCH` pre-training clips."""
    from vmae_jax.data import pipeline

    data = DataConfig(
        dataset=dataset, batch_size=BATCH, views=views, stride=STRIDE,
        threads=threads, workers=workers, antialias=antialias,
    )  # fmt: skip
    return pipeline.open_clips(Config(model=model, data=data))


def shard_clips(
    dataset: str,
    model: ModelConfig,
    views: int,
    cores: int,
    workers: int,
    clips: int,
    antialias: bool = False,
) -> Turn:
    """Turns of reading, checking, decoding and cropping `clips` records, as training does."""
    _use_cores(cores)
    threads = 1 if workers else cores
    stream = open_stream(dataset, model, views, threads, workers, antialias)
    batches = max(1, clips // BATCH)

    def turn() -> int:
        for _ in range(batches):
            next(stream)
        return batches * BATCH

    return Turn(turn)


def original_clips(
    files: list[str], model: ModelConfig, views: int, cores: int, clips: int
) -> Turn:
    """Turns of the same work on the original files with PyAV: seek, decode, crop."""
    _use_cores(cores)
    pool = concurrent.futures.ThreadPoolExecutor(cores)
    seeds = itertools.count()

    def one(seed: int) -> None:
        rng = np.random.default_rng(seed)
        _clip_of_file(files[seed % len(files)], model, views, rng)

    def turn() -> int:
        list(pool.map(one, itertools.islice(seeds, clips)))
        return clips

    return Turn(turn)


def memory(
    dataset: str, model: ModelConfig, views: int, cores: int, clips: int
) -> dict[int, float]:
    """Streams `clips` records: resident bytes of this process by clips so far, ten times."""
    _use_cores(cores)
    batches, found = max(1, clips // (10 * BATCH)), {}
    with open_stream(dataset, model, views, cores, 0) as stream:
        for i in range(10):
            for _ in range(batches):
                next(stream)
            found[(i + 1) * batches * BATCH] = _resident()
    return found


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _clip_of_file(
    path: str, model: ModelConfig, views: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Views of one clip of a file as people write it: seek back to a key frame, decode onward."""
    import av

    from vmae_jax.data import augment, clips

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, first = stream.average_rate, stream.start_time or 0
        total = stream.frames or round((container.duration or 0) / av.time_base * rate)
        start = int(rng.integers(clips.num_starts(total, model.num_frames, STRIDE)))
        wanted = clips.clip_indices(total, model.num_frames, STRIDE, start)
        container.seek(first + int(start / rate / stream.time_base), stream=stream)
        frames = {}
        for frame in container.decode(stream):
            place = round((frame.pts - first) * stream.time_base * rate)
            if place in wanted:
                frames[place] = frame.to_ndarray(format="rgb24", threads=1)
            if place >= wanted[-1]:
                break
    last = max(frames)
    video = np.stack([frames.get(i, frames[last]) for i in wanted])
    return [augment.multi_scale_crop(video, model.image_size, rng) for _ in range(views)]


def _use_cores(count: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def _generate_original(path: str) -> None:
    """A 10 s clip as cameras and phones write them: 1280x720, H.264, GOP 250, moving and noisy."""
    import av
    import cv2

    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 256, (45, 80, 3), np.uint8), (2560, 1440))
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "250", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(300):
            view = scene[2 * i : 2 * i + 720, 4 * i : 4 * i + 1280].astype(np.int16)
            noise = rng.integers(-12, 13, (720, 1280, 1), np.int16)
            picture = np.clip(view + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
