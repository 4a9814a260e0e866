"""Finds FIFOs, sockets and devices. They are never opened, because reading them may never end."""

import errno
import os
import stat

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class SpecialFileError(OSError):
    """A path that is a FIFO, a socket, a device or a dangling link."""

    def __str__(self) -> str:  # without the error number
        return self.strerror


def kind(path: str | os.PathLike) -> str:
    """What a path is, as "a FIFO", if it is neither a file nor a folder; else "".

    A link to nothing is "a dangling link"; for a path that does not exist the result is "".
    """
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return "a dangling link" if os.path.islink(path) else ""


def check(path: str | os.PathLike) -> None:
    """Raises SpecialFileError if a path is neither a file nor a folder, but exists."""
    if found := kind(path):
        raise SpecialFileError(errno.EINVAL, f"is {found}, expected a file", os.fspath(path))
