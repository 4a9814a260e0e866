"""Where numbers and pictures go: the terminal, a JSONL file and TensorBoard.

The writers have the interface of `clu.metric_writers` (`write_scalars`, `write_images`, `flush`,
`close`), which itself imports TensorFlow and so is not used.
"""

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

# Dense bfloat16 peak of one jax device in FLOP/s, from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device, or None where it is not known (CPUs, other accelerators)."""
    kind = device.device_kind
    matches = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


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
        self.path.write_text("".join(line + "\n" for line in kept))
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
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(directory, purge_step=start + 1 if start else None)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class TerminalWriter:
    """A progress bar on a terminal, plain lines in a log file."""

    def __init__(self, name: str, start: int, steps: int):
        self._start, self._steps, self._began = start, steps, None
        self._bar = tqdm(
            total=steps, initial=start, desc=name, unit="step", dynamic_ncols=True, smoothing=0.05
        ) if sys.stderr.isatty() else None  # fmt: skip

    def advance(self, step: int) -> None:
        if self._bar:
            self._bar.update(step - self._bar.n)
        elif self._began is None:  # after the first step, which compiles
            self._began = (datetime.datetime.now(), step)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        short = {"loss": "{:.4f}", "clips_per_second": "{:.1f} clips/s", "data_wait": "wait {:.0%}"}
        parts = [form.format(scalars[k]) for k, form in short.items() if k in scalars]
        parts[0] = f"loss {parts[0]}"
        if scalars.get("bad_records"):
            parts.append(f"{scalars['bad_records']:.0f} bad records")
        if scalars.get("skipped"):
            parts.append(f"{scalars['skipped']:.0f} skipped")
        if self._bar:
            self._bar.set_postfix_str(", ".join(parts))
        else:
            print(f"step {step}/{self._steps}  " + "  ".join([*parts, self._eta(step)]), flush=True)

    def _eta(self, step: int) -> str:
        if self._began is None or step <= self._began[1]:
            return "ETA ?"
        spent = datetime.datetime.now() - self._began[0]
        left = spent / (step - self._began[1]) * (self._steps - step)
        return f"ETA {str(left).split('.')[0]}"

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """A terminal shows none."""

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._bar:
            self._bar.close()


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
