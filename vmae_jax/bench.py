"""Throughput on this machine: python -m vmae_jax.bench [--parts=model,data] [--nopeer]

    model  training steps of a variant, beside Hugging Face's VideoMAE in PyTorch
    data   decoded training clips from shards, on one core, beside PyAV on the original files

Both sides of a comparison live in processes of their own and take turns, so that they meet the same
machine. The ratio is taken within each round; a range that crosses 1 is not resolved. Run it on
idle cores.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
from absl import app, flags, logging

from vmae_jax.config import VARIANTS, Config, DataConfig, MaskConfig, ModelConfig

_PARTS = flags.DEFINE_list("parts", ["model", "data"], "What to measure: model, data.")
_PEER = flags.DEFINE_bool("peer", True, "Measure the peers too, in turns (model: torch extra).")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
_VARIANT = flags.DEFINE_enum("variant", "S", sorted(VARIANTS), "Model size.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of activations.")
_BATCH = flags.DEFINE_integer("batch", 4, "Clips per training step.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 224, "Pixels.")
_FRAMES = flags.DEFINE_integer("num_frames", 16, "Frames per clip.")
_STEPS = flags.DEFINE_integer("steps", 3, "Training steps per turn.", lower_bound=1)
_VIDEOS = flags.DEFINE_string(
    "videos", None, "Videos for the data part [a generated 10 s clip of 1280x720, GOP 250]."
)
_CLIPS = flags.DEFINE_integer("clips", 24, "Clips per turn of the data part.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")

STRIDE = 4  # frames between sampled frames in the data part, as in the papers


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison: `make` prepares it and returns what one turn runs.

    A turn returns the number of clips that it processed.
    """

    name: str
    make: Callable[..., Callable[[], int]]
    args: tuple


# ---- model ----


def jax_training(model: ModelConfig, batch: int, steps: int) -> Callable[[], int]:
    """Turns of `steps` training steps of ours: dual masking, backward pass and AdamW."""
    import jax

    from vmae_jax import optim, program
    from vmae_jax.tasks.pretrain import Pretrain

    config = Config(model=model, data=DataConfig(dataset="none", batch_size=batch, views=1))
    task = Pretrain(config)
    tx = optim.optimizer(config.optim)
    state = jax.jit(program.make_init(config, task, tx))(jax.random.key(0))
    step = jax.jit(program.make_step(config, task, tx, lambda step: 1e-4), donate_argnums=0)
    rng = np.random.default_rng(0)
    video = jax.device_put(rng.integers(0, 256, _video_shape(model, batch), np.uint8))

    def turn() -> int:
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, {"video": video})
        jax.block_until_ready((state, metrics))
        return batch * steps

    return turn


def torch_training(model: ModelConfig, batch: int, steps: int) -> Callable[[], int]:
    """Turns of `steps` training steps of `transformers`' VideoMAE: tube mask 0.9 and AdamW.

    It decodes every hidden token: there is no decoder masking in it.
    """
    import torch
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    encoder, decoder = model.encoder, model.decoder
    peer = VideoMAEForPreTraining(
        VideoMAEConfig(
            image_size=model.image_size, patch_size=model.patch_size, num_frames=model.num_frames,
            tubelet_size=model.tubelet_size, hidden_size=encoder.dim,
            num_hidden_layers=encoder.depth, num_attention_heads=encoder.heads,
            intermediate_size=encoder.mlp_dim, decoder_hidden_size=decoder.dim,
            decoder_num_hidden_layers=decoder.depth, decoder_num_attention_heads=decoder.heads,
            decoder_intermediate_size=decoder.mlp_dim, norm_pix_loss=True,
        )
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(peer.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer.to(device)
    t, h, w = model.grid
    hidden = int(MaskConfig.encoder_ratio * h * w)
    video = torch.randint(0, 256, _video_shape(model, batch), dtype=torch.uint8, device=device)
    mean, std = (
        torch.tensor(x, device=device) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def turn() -> int:
        for _ in range(steps):
            tube = torch.rand(batch, h * w, device=device).argsort(1).argsort(1) < hidden
            pixels = ((video / 255 - mean) / std).permute(0, 1, 4, 2, 3)
            dtype = torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
            with torch.autocast(device, dtype, enabled=model.dtype == "bfloat16"):
                loss = peer(pixels, bool_masked_pos=tube.repeat(1, t)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return batch * steps

    return turn


def _video_shape(model: ModelConfig, batch: int) -> tuple[int, ...]:
    return batch, model.num_frames, model.image_size, model.image_size, 3


# ---- data ----


def shard_clips(dataset: str, model: ModelConfig, clips: int) -> Callable[[], int]:
    """Turns of reading, checking, decoding and cropping `clips` records on one core."""
    from vmae_jax.data import pipeline

    _use_one_core()
    data = DataConfig(dataset=dataset, batch_size=1, views=1, stride=STRIDE, threads=1)
    stream = pipeline.open_clips(Config(model=model, data=data))
    places = iter(range(sys.maxsize))

    def turn() -> int:
        for _ in range(clips):
            stream.example(next(places))
        return clips

    return turn


def original_clips(videos: list[str], model: ModelConfig, clips: int) -> Callable[[], int]:
    """Turns of the same work on the original files with PyAV: seek, decode, crop."""
    _use_one_core()
    rng = np.random.default_rng(0)

    def turn() -> int:
        for i in range(clips):
            _clip_of_file(videos[i % len(videos)], model, rng)
        return clips

    return turn


def _clip_of_file(path: str, model: ModelConfig, rng: np.random.Generator) -> np.ndarray:
    """One training clip of a file as people write it: seek back to a key frame, decode onward."""
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
    return augment.multi_scale_crop(video, model.image_size, rng)


def _use_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


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


# ---- taking turns ----


def _serve(connection: Connection, side: Side) -> None:
    """A side's process: prepare, warm up, then one timed turn per request."""
    turn = side.make(*side.args)
    turn()
    connection.send("ready")
    while connection.recv():
        turn()  # what was paged out or went to sleep during the other side's turn comes back
        began = time.perf_counter()
        clips = turn()
        connection.send(clips / (time.perf_counter() - began))


def take_turns(sides: list[Side], rounds: int) -> dict[str, list[float]]:
    """Clips per second of every side in every round."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for side in sides:
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, side), daemon=True).start()
        theirs.close()
        try:
            ours.recv()
        except EOFError:
            raise RuntimeError(f"{side.name}: could not be prepared; see above") from None
        connections.append(ours)
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side, connection in zip(sides, connections, strict=True):
            connection.send(True)
            rates[side.name].append(connection.recv())
    for connection in connections:
        connection.send(False)
    return rates


def compare(rates: dict[str, list[float]]) -> dict:
    """Median rates, and the median and range of the ratio of the first side to the second."""
    result: dict = {"clips_per_second": {k: statistics.median(v) for k, v in rates.items()}}
    if len(rates) == 2:
        ours, peer = rates.values()
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        low, high = min(ratios), max(ratios)
        result["ratio"] = {"median": statistics.median(ratios), "range": [low, high]}
        result["resolved"] = not low <= 1 <= high
    return result


def report(part: str, result: dict) -> Iterator[str]:
    """Lines of the table."""
    yield part
    for name, rate in result["clips_per_second"].items():
        yield f"  {name:<52} {rate:9.2f} clips/s"
    if "ratio" in result:
        low, high = result["ratio"]["range"]
        verdict = "" if result["resolved"] else "  (crosses 1: not resolved)"
        yield f"  ratio {result['ratio']['median']:.2f}, range {low:.2f} to {high:.2f}{verdict}"


def bench_model(model: ModelConfig) -> dict:
    args = (model, _BATCH.value, _STEPS.value)
    sides = [Side(f"vmae_jax {model.variant}, dual masking", jax_training, args)]
    if _PEER.value and not importlib.util.find_spec("transformers"):
        print("no peer: pip install -e '.[torch]' brings transformers and torch")
    elif _PEER.value:
        sides.append(Side("transformers VideoMAE, eager, no decoder masking", torch_training, args))
    return compare(take_turns(sides, _ROUNDS.value))


def bench_data(model: ModelConfig, folder: str) -> dict:
    from vmae_jax.data.build import build

    videos = _VIDEOS.value or os.path.join(folder, "originals")
    if not _VIDEOS.value:
        os.makedirs(videos)
        _generate_original(os.path.join(videos, "original.mp4"))
    dataset = os.path.join(folder, "dataset")
    report = build(videos, dataset)
    sides = [Side("shards, one core", shard_clips, (dataset, model, _CLIPS.value))]
    if _PEER.value:
        root = videos if os.path.isdir(videos) else ""
        files = [os.path.join(root, video["path"]) for video in report.kept]
        sides.append(Side("PyAV on the originals, one core", original_clips,
                          (files, model, max(1, _CLIPS.value // 4))))  # fmt: skip
    return compare(take_turns(sides, _ROUNDS.value))


def main(argv: list[str]) -> None:
    unknown = set(_PARTS.value) - {"model", "data"}
    if unknown or len(argv) > 1:
        raise app.UsageError(f"unknown part or argument {[*unknown, *argv[1:]]}: see --help")
    logging.set_verbosity(logging.WARNING)  # TFDS announces every split
    model = ModelConfig(
        variant=_VARIANT.value, image_size=_SIZE.value, num_frames=_FRAMES.value, dtype=_DTYPE.value
    )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start", flush=True)
    results = {}
    for part in _PARTS.value:
        with tempfile.TemporaryDirectory() as folder:
            results[part] = bench_model(model) if part == "model" else bench_data(model, folder)
        title = f"{part}: {model.num_frames}x{model.image_size}x{model.image_size}"
        if part == "model":
            title += f", {model.dtype}, batch {_BATCH.value}"
        print("\n".join(report(title, results[part])), flush=True)
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    app.run(main)
