"""Progress of a command on stderr: a bar on a terminal, elsewhere a line every 30 seconds."""

import datetime
import sys
import time
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines


class Progress:
    """Shows the progress of each step of a command, one step after the other."""

    def __init__(self, unit: str = "video"):
        self._unit, self._what, self._bar = unit, "", None

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Shows that `done` of `total` things of the step `what` are done, and a note.

        The first call of a step may have done > 0: that was done before, and does not count in ETA.
        """
        if what != self._what:
            self.close()
            self._open(what, done, total)
        if done > self._done and self._began is None:  # the first may compile
            self._began = (time.monotonic(), done)
        self._done, self._note = done, note or self._note
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if note:
                self._bar.set_postfix_str(note)
        elif time.monotonic() - self._told >= EVERY:
            self._tell()

    def _open(self, what: str, done: int, total: int) -> None:
        self._what, self._done, self._total, self._note = what, done, total, ""
        self._began: tuple[float, int] | None = None
        self._told, self._said = time.monotonic(), ""
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=what, unit=self._unit, dynamic_ncols=True,
                smoothing=0.05,
            )  # fmt: skip

    def _tell(self) -> None:
        parts = [f"{self._what} {self._done}/{self._total}", self._note]
        if self._done < self._total:
            parts.append(f"ETA {self._left()}")
        line = "  ".join(filter(None, parts))
        if line != self._said:
            print(line, file=sys.stderr, flush=True)
        self._told, self._said = time.monotonic(), line

    def _left(self) -> str:
        """Hours, minutes and seconds to go."""
        if self._began is None or self._done <= self._began[1]:
            return "?"
        each = (time.monotonic() - self._began[0]) / (self._done - self._began[1])
        return str(datetime.timedelta(seconds=int(each * (self._total - self._done))))

    def write(self, text: str) -> None:
        """A line on stdout, above the bar where there is one."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Ends the step, without a terminal with a last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._what and (self._said or self._note):
            self._tell()
        self._what, self._bar = "", None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
