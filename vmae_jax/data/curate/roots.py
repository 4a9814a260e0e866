"""Where the videos of a manifest lie: paths that stay under one root, and what is refused."""

import os
import re
import urllib.parse

from vmae_jax.data.curate.items import CurationError

# What holds videos elsewhere. The other protocols of fsspec open local files or wrap each other.
REMOTE = (
    "abfs", "abfss", "adl", "az", "gcs", "gs", "hdfs", "http", "https", "memory", "oci", "oss",
    "s3", "s3a", "webhdfs",
)  # fmt: skip
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MAX_PATH = 4096  # characters


class PathRefused(ValueError):
    """A path that is not read: why in few words (`reason`), and what was found (`detail`)."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Root:
    """A folder, or the URL of one, that holds the videos.

    Local files lie in the folder. URLs may stand beside them; under a root that is itself a URL,
    all lie under it.
    """

    def __init__(self, root: str):
        """Takes a folder that need not exist, or a URL.

        Raises:
          CurationError: where the URL is of a kind that is not read.
        """
        self._protocol, path = _split(root)
        if "::" in root or self._protocol not in ("", *REMOTE):
            raise CurationError(
                f"--root={root}: expected a folder, or a URL of {', '.join(REMOTE)}"
            )
        self._is_url = bool(self._protocol)
        self.path = root.rstrip("/") if self._is_url else path.rstrip("/") or "/"
        self._real = os.path.realpath(self.path)
        self._real_folders: dict[str, str] = {}

    def relative(self, path: str) -> str:
        """The path as an `Item` has it: relative to the root, '/' between parts; or a URL.

        '.' and doubled '/' are taken out, so that a video has one path. It need not exist.

        Raises:
          PathRefused: where it is no path, or leads out of the root, by a link too.
        """
        if len(path) > MAX_PATH or CONTROL.search(path):
            raise PathRefused("not a path", f"too long, or a control character: {path[:40]!r}")
        protocol, rest = _split(path)
        if protocol and protocol not in REMOTE:
            raise PathRefused("refused URL", f"{protocol}://, expected one of {', '.join(REMOTE)}")
        if "::" in path and (protocol or self._is_url or "://" in path):
            raise PathRefused("refused URL", f"{path[:200]}: '::' chains file systems")
        if ".." in re.split(r"[/\\]", urllib.parse.unquote(path) if protocol else path):
            raise PathRefused("path escape", f"{path[:200]}: '..' in it")
        if protocol:
            return self._remote(path)
        return self._local(rest)

    def _remote(self, path: str) -> str:
        if not self._is_url:
            return path
        if not path.startswith(f"{self.path}/"):
            raise PathRefused("path escape", f"{path[:200]} is not under {self.path}")
        return self._local(path.removeprefix(f"{self.path}/"))

    def _local(self, path: str) -> str:
        inside = path
        if path.startswith("/"):
            bases = [base.rstrip("/") + "/" for base in (self.path, self._real)]
            base = next((b for b in bases if path.startswith(b) and not self._is_url), None)
            if base is None:
                raise PathRefused("path escape", f"{path[:200]} is not under {self.path}")
            inside = path.removeprefix(base)
        parts = [part for part in inside.split("/") if part not in ("", ".")]
        if not parts:
            raise PathRefused("missing path", f"{path[:200]!r} names no file")
        if not self._is_url:
            self._check_links(parts)
        return "/".join(parts)

    def _check_links(self, parts: list[str]) -> None:
        folder = "/".join(parts[:-1])
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(os.path.join(self.path, folder))
        real = os.path.join(self._real_folders[folder], parts[-1])
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not real.startswith(self._real.rstrip("/") + "/"):
            raise PathRefused("path escape", f"{'/'.join(parts)[:200]}: a link out of {self.path}")


def _split(path: str) -> tuple[str, str]:
    """Protocol ('' = a local path) and the rest; file:// is a local path."""
    found = _PROTOCOL.match(path)
    if not found:
        return "", path
    protocol = found[1].lower()
    rest = path[found.end() :]
    return ("", rest) if protocol in ("file", "local") else (protocol, rest)
