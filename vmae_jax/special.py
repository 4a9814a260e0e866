"""What is no file: FIFOs, sockets and devices are named, and never opened, as that may not end."""

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
    """A path that leads to no file."""

    def __str__(self) -> str:  # without the number that is there for completeness
        return self.strerror


def kind(path: str | os.PathLike) -> str:
    """What a path leads to, where that is neither a file nor a folder; else "".

    A link that leads nowhere is "a dangling link"; what is not there at all is "".
    """
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return "a dangling link" if os.path.islink(path) else ""


def check(path: str | os.PathLike) -> None:
    """Raises SpecialFileError where a path is of such a kind."""
    if found := kind(path):
        raise SpecialFileError(errno.EINVAL, f"is {found}, expected a file", os.fspath(path))
