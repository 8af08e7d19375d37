"""A package index of a later day: what the locks pin, and newer releases of all of it."""

import re
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tests.installation.wheels import empty_wheel, normalized, packed_again, sha256

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)((?: ;[^\\]*)?)\s*\\$")
WORKING = ("uv", "hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers")
"""What `make venv` runs itself, as uv or to build the project: these wheels hold the real thing."""
Pin = tuple[str, str]


def pins(lock: str) -> Iterator[tuple[Pin, str]]:
    """Yield each pinned package with its version, and the marker that goes with it."""
    for line in lock.splitlines():
        if found := _PIN.match(line):
            yield (normalized(found[1]), found[2]), found[3].removeprefix(" ;").strip()


def newer(version: str) -> list[str]:
    """Return the versions of the next fix and of the next major release."""
    major, minor, micro, *_ = (*Version(version).release, 0, 0)
    return [f"{major}.{minor}.{micro + 1}", f"{major + 1}.0"]


class Index:
    """Folders of wheels by package, as PEP 503 lays them out, with the metadata of what is installed here."""

    def __init__(self, folder: Path, locks: Mapping[str, str]) -> None:
        self.folder = folder
        self._hashes: dict[Pin, str] = {}
        self._latest: dict[str, str] = {}
        for lock in locks.values():
            for (name, version), _ in pins(lock):
                self._latest[name] = max(version, self._latest.get(name, version), key=Version)
        known = {normalized(each.name): each for each in distributions()}
        for lock in locks.values():
            for pin, _ in pins(lock):
                self._offer(pin, known.get(pin[0]))
        for name, version in self._latest.items():
            for rank, later in enumerate(newer(version)):
                empty_wheel(folder, name, later, *self._needs(known.get(name), rank))

    def rewritten(self, lock: str) -> str:
        """Return a lock with the hashes of this index's wheels in place of the real ones."""
        lines: list[str] = []
        for line in lock.splitlines():
            if found := _PIN.match(line):
                digest = self._hashes[normalized(found[1]), found[2]]
                lines += [line, f"    --hash=sha256:{digest}"]
            elif not line.lstrip().startswith("--hash"):
                lines.append(line)
        return "\n".join(lines) + "\n"

    @contextmanager
    def served(self) -> Generator[str]:
        """Serve the index on loopback and yield its URL."""
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(self.folder))) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()

    def _offer(self, pin: Pin, installed: Distribution | None) -> None:
        if pin in self._hashes:
            return
        if installed is not None and installed.version == pin[1] and pin[0] in WORKING:
            wheel = packed_again(self.folder, installed)
        else:
            wheel = empty_wheel(self.folder, *pin, *self._needs(installed, None))
        self._hashes[pin] = sha256(wheel)

    def _needs(self, installed: Distribution | None, rank: int | None) -> tuple[list[str], list[str]]:
        """Return requirements and extras; a release of a later rank pins its siblings at releases of the same rank."""
        if installed is None:
            return [], []
        needed = installed.requires or []
        if rank is not None:
            needed = [self._moved(each, rank) for each in needed]
        return needed, installed.metadata.get_all("Provides-Extra") or []

    def _moved(self, text: str, rank: int) -> str:
        requirement = Requirement(text)
        locked = self._latest.get(normalized(requirement.name))
        if locked is None or str(requirement.specifier) != f"=={locked}":
            return text
        return text.replace(f"=={locked}", f"=={newer(locked)[rank]}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Print nothing: the test's own output matters."""
