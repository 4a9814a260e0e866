"""Stands in for vmae_jax.main: leaves what a run leaves, with planted accuracies, at once.

A file FOLDER/fail_<seed> lets pre-training of that seed die halfway; FOLDER/wait lets a run hang.
"""

import json
import re
import sys
import time
from pathlib import Path


def accuracy(arm: str, clips: int, seed: int) -> float:
    if arm == "scratch":
        return 20.0 + seed
    return 80 - (40 if arm == "good" else 60) * (clips / 2) ** -0.5 + 0.2 * seed


def main(flags: dict[str, str]) -> int:
    workdir = Path(flags["workdir"])
    arm, clips, seed = re.fullmatch(r"([a-z]+?)_?(\d*)_seed(\d+)", workdir.parent.name).groups()
    study = workdir.parents[1]
    with open(study / "calls", "a") as file:
        file.write(f"{workdir.relative_to(study)}\n")
    while (study / "wait").exists():
        time.sleep(0.02)
    if workdir.name == "pretrain":
        steps = flags["config.train.steps"]
        if (study / f"fail_{seed}").exists():
            (workdir / "half").touch()
            print("out of memory", file=sys.stderr)
            return 1
        (workdir / "checkpoints" / steps).mkdir(parents=True)
        return 0
    start = flags["config.init_from"]
    assert not start or list(Path(start, "checkpoints").iterdir())
    assert bool(start) == (arm != "scratch")
    top1 = accuracy(arm, int(clips or 0), int(seed))
    (workdir / "eval").mkdir()
    summary = {"top1": top1, "top5": 100.0, "mean_class": top1, "videos": 1, "failed": {}}
    (workdir / "eval" / "summary.json").write_text(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main(dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])))
