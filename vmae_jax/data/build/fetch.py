"""Videos that lie elsewhere: a local file with their bytes."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from typing import IO

import fsspec

from vmae_jax.data.build.items import BuildError
from vmae_jax.data.shards import is_url
from vmae_jax.data.videos import VideoError

MAX_BYTES = 1 << 36  # of a file that is fetched
_CHUNK = 1 << 20
_WAITS = (1, 5, 20)  # seconds before another try


class FetchError(BuildError):
    """What a URL holds could not be read: says nothing of the video."""


def locate(root: str, path: str) -> str:
    """Where a video of a folder, or of the URL of one, is; `path` may be a URL itself."""
    if is_url(path):
        return path
    return f"{root.rstrip('/')}/{path}" if is_url(root) else os.path.join(root, path)


@contextlib.contextmanager
def local_file(place: str, max_bytes: int = MAX_BYTES) -> Iterator[str]:
    """The file itself, or a copy of what a URL holds, which is gone afterwards.

    Raises:
      FetchError: where a URL cannot be read, after some tries.
      VideoError: where it holds more than `max_bytes`.
    """
    if not is_url(place):
        yield place
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(place)[1][:8]) as copy:
        for wait in (*_WAITS, None):
            try:
                _copy(place, copy, max_bytes)
                break
            except FetchError:
                if wait is None:
                    raise
                time.sleep(wait)
        yield copy.name


def _copy(place: str, copy: IO[bytes], max_bytes: int) -> None:
    copy.seek(0)
    copy.truncate()
    for data in _read(place):
        copy.write(data)
        if copy.tell() > max_bytes:
            raise VideoError("too large", f"more than {max_bytes} bytes (--max_bytes)")
    copy.flush()


def _read(place: str) -> Iterator[bytes]:
    try:
        with fsspec.open(place, "rb") as remote:
            while data := remote.read(_CHUNK):
                yield data
    except ImportError as error:
        raise BuildError(f"{place}: {error}; pip install what it names") from error
    except Exception as error:  # every protocol of fsspec raises errors of its own
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise FetchError(f"{place}: could not be fetched ({why}); run the command again") from error
