"""Files that are there whole or not at all, whatever ends the process that writes them."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

_LONGEST = 255  # bytes of a name, on the file systems of Linux and macOS


@contextlib.contextmanager
def opened(path: str | os.PathLike, mode: str = "wb", **how: Any) -> Iterator[IO]:
    """A file to write, which takes the place of what was there once the block ends.

    Args:
      path: on a disk.
      mode, how: as of `open`.
    """
    draft = f"{os.fspath(path)}.incomplete"
    with open(draft, mode, **how) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a whole file; text as UTF-8.

    Args:
      path: also a URL that etils.epath knows, such as gs://: a bucket's objects are whole anyway.
    """
    data = content.encode() if isinstance(content, str) else content
    if "://" in os.fspath(path):
        epath.Path(path).write_bytes(data)
        return
    with opened(path) as file:
        file.write(data)


def named(stem: str, ending: str) -> str:
    """`stem + ending`; where that is too long for a file, a hash in place of the stem's end."""
    raw = os.fsencode(stem)
    room = _LONGEST - len(os.fsencode(ending))
    if len(raw) <= room:
        return stem + ending
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return f"{raw[: room - len(digest) - 1].decode(errors='ignore')}-{digest}{ending}"
