"""A gcloud whose TPU workers are folders: it notes every call and runs what ssh is given.

Everything is in $FAKE: calls.jsonl; lives, how often machines were created; states (of the request)
and nodes, lines that `describe` plays back (the last one stays); w0 and w1, the home folders of the
workers. With a file preempt, the first machines are lost as soon as their run is seen.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

FAKE = Path(os.environ["FAKE"])


def play(name: str) -> str:
    lines = (FAKE / name).read_text().splitlines()
    (FAKE / name).write_text("\n".join(lines[1:] or lines))
    return lines[0]


def lose_machines() -> None:
    """Kills all that the workers run, without leaving them time to note it."""
    for home in FAKE.glob("w*"):
        pid = int((home / "vmae_jax/runs/worker/pid").read_text())
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for number in (supervisor, pid):
            os.kill(number, signal.SIGKILL)
    (FAKE / "states").write_text("SUSPENDED")


def ssh(command: str, homes: list[Path]) -> int:
    status = 0
    for home in homes:
        out = subprocess.run(
            ["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        print(out.stdout, end="")
        print(out.stderr, end="", file=sys.stderr)
        status = max(status, out.returncode)
        seen = "running" in out.stdout and "worker.sh status" in command
    if seen and (FAKE / "preempt").exists():
        (FAKE / "preempt").unlink()
        lose_machines()
    return status


def main(arguments: list[str]) -> int:
    with (FAKE / "calls.jsonl").open("a") as file:
        print(json.dumps(arguments), file=file)
    verb = arguments[3]
    flags = dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))
    homes = sorted(FAKE.glob("w*"))
    if verb == "create":
        assert not homes, "ALREADY_EXISTS"
        for number in range(2):
            (FAKE / f"w{number}").mkdir()
        lives = FAKE / "lives"
        lives.write_text(str(int(lives.read_text()) + 1 if lives.exists() else 1))
        (FAKE / "states").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")
        return 0
    if not homes:
        print(f"ERROR: (gcloud.{verb}) NOT_FOUND: no {arguments[4]}", file=sys.stderr)
        return 1
    if verb == "describe":
        if arguments[2] != "tpu-vm":
            print(play("states"))
        else:
            print(play("nodes") if (FAKE / "nodes").exists() else "READY")
        return 0
    if verb == "delete":
        for home in homes:
            shutil.rmtree(home)
        return 0
    if flags["worker"] != "all":
        homes = [homes[int(flags["worker"])]]
    if verb == "scp":
        for home in homes:
            shutil.copy(arguments[4], home)
        return 0
    return ssh(flags["command"], homes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
