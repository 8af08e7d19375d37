"""A folder that appears under its name only when it is whole; its files are hashed as they are written."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tradesaga.consumers.audit.export.manifest import File
from tradesaga.infra.errors import CommandError, ExitCode, unavailable

_PIECE: Final = 1 << 20


class HashedFile:
    """One file of an export, written from front to back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._bytes = 0
        with _explained(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._file = path.open("xb", buffering=_PIECE)

    def write(self, data: bytes) -> None:
        """Append."""
        self._hash.update(data)
        self._bytes += len(data)
        with _explained(self._path):
            self._file.write(data)

    def abandon(self) -> None:
        """Close it, whatever becomes of what was written: it is about to be removed."""
        with suppress(OSError):
            self._file.close()

    def close(self) -> tuple[int, str]:
        """Have the disk keep it; give its length and its hash in hex."""
        with _explained(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return self._bytes, self._hash.hexdigest()


class FreshFolder:
    """A new folder; raises `CommandError`: exit 4 where there is one already, 3 without a parent, 5 without space."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._open: dict[str, HashedFile] = {}
        self.files: list[File] = []

    def __enter__(self) -> Self:
        if self.path.exists() or self.path.is_symlink():
            raise _exists(self.path)
        if not self.path.parent.is_dir():
            do = "make it, or name another"
            raise CommandError(
                "folder-missing", "there is no such folder", str(self.path.parent), do, ExitCode.NOT_FOUND
            )
        with _explained(self._part):
            self._part.mkdir(mode=0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.abandon()
        if self._part.exists():
            shutil.rmtree(self._part)

    def at(self, name: str) -> Path:
        """Name the place of a file while the folder is being made."""
        return self._part / name

    def file(self, name: str) -> HashedFile:
        """Open a file, or give the open one."""
        if name not in self._open:
            self._open[name] = HashedFile(self.at(name))
        return self._open[name]

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        self.file(name).write(data)

    def adopt(self, name: str) -> None:
        """Take over a file that something else has written here."""
        with _explained(self.at(name)), self.at(name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.files.append(File(path=name, bytes=size, sha256=hashlib.file_digest(file, "sha256").hexdigest()))
            os.fsync(file.fileno())

    def close_files(self) -> tuple[File, ...]:
        """Close all open files; give every file so far, by name."""
        for name, file in self._open.items():
            size, sha256 = file.close()
            self.files.append(File(path=name, bytes=size, sha256=sha256))
        self._open = {}
        return tuple(sorted(self.files, key=lambda each: each.path))

    def finish(self) -> None:
        """Let the folder appear under its name."""
        self.close_files()
        if self.path.exists() or self.path.is_symlink():
            raise _exists(self.path)
        with _explained(self.path):
            for folder in (self._part, *(each for each in self._part.iterdir() if each.is_dir())):
                _sync(folder)
            self._part.rename(self.path)
            _sync(self.path.parent)


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        do = "free some space there, or name another folder with --out; nothing was left behind"
        raise unavailable(
            "export-unwritable", f"the export cannot be written: {error.strerror}", str(path), do
        ) from error


def _exists(path: Path) -> CommandError:
    do = "name a new folder: an export is never written over another"
    return CommandError("folder-exists", "there is something already", str(path), do, ExitCode.REFUSED)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
