"""Videos that lie elsewhere: a local file with their bytes."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import fsspec

from vmae_jax.data.videos import VideoError

MAX_BYTES = 4 << 30  # of a file that is fetched
_CHUNK = 1 << 20


def is_url(path: str) -> bool:
    return "://" in path


def locate(root: str, path: str) -> str:
    """Where a video of a folder, or of the URL of one, is; `path` may be a URL itself."""
    if is_url(path):
        return path
    return f"{root.rstrip('/')}/{path}" if is_url(root) else os.path.join(root, path)


@contextlib.contextmanager
def local_file(place: str, max_bytes: int = MAX_BYTES) -> Iterator[str]:
    """The file itself, or a copy of what a URL holds, which is gone afterwards.

    Raises:
      VideoError: where a URL cannot be read, or holds more than `max_bytes`.
    """
    if not is_url(place):
        yield place
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(place)[1][:8]) as copy:
        try:
            with fsspec.open(place, "rb") as remote:
                while data := remote.read(_CHUNK):
                    copy.write(data)
                    if copy.tell() > max_bytes:
                        raise VideoError("too large", f"more than {max_bytes} bytes (max_bytes)")
        except VideoError:
            raise
        except Exception as error:  # every protocol of fsspec raises errors of its own
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise VideoError("cannot be opened", why) from error
        copy.flush()
        yield copy.name
