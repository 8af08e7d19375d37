"""The folder of an export: writing a new one, and reading one that anyone may have made.

Readers follow no links, open no files outside, and limit the length of lines.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.layout import FormatError
from tradesaga.consumers.audit.export.manifest import File
from tradesaga.infra.errors import CommandError, ExitCode, unavailable

LINE_BYTES: Final = 64 << 20
"""The longest line: a record has at most a megabyte, and text grows at most sixfold."""
SMALL_BYTES: Final = 64 << 20
"""The largest manifest, key file or note."""
_DEEPEST: Final = 2


class ExportFolder:
    """Reads an export. Methods raise `FormatError` for a missing file or one that is no regular file."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            do = "name the folder that `tradesaga audit export` made"
            raise CommandError("export-missing", "there is no such folder", str(path), do, ExitCode.NOT_FOUND)
        self._path = path

    def check_names(self, files: tuple[File, ...]) -> list[str]:
        """Return what is wrong with the names of the manifest's files and of those in the folder."""
        said = [file.path for file in files]
        wrong = [f"{name[:200]!r} is not a valid file name in an export" for name in said if not is_safe(name)]
        wrong += [
            f"{name[:200]!r} is listed twice"
            for name in sorted(name for name, times in Counter(said).items() if times > 1)
        ]
        expected = {name for name in said if is_safe(name)} | {layout.MANIFEST, layout.SIGNATURE}
        there = self._list()
        wrong += [f"{name[:200]!r} is here, and the manifest does not know it" for name in sorted(there - expected)]
        return wrong

    def _list(self) -> set[str]:
        """Return the names of all files; links are named, not followed."""
        found: set[str] = set()
        for root, folders, files in os.walk(self._path):
            here = Path(root).relative_to(self._path)
            found |= {(here / name).as_posix() for name in files}
            found |= {(here / name).as_posix() for name in folders if (Path(root) / name).is_symlink()}
        return found

    def read(self, name: str) -> bytes:
        """Read a small file."""
        with self.open(name) as file:
            found = file.read(SMALL_BYTES + 1)
        if len(found) > SMALL_BYTES:
            raise FormatError(f"{name} is longer than {SMALL_BYTES:,} bytes")
        return found

    def measure(self, name: str, expected: int) -> tuple[int, str]:
        """Return a file's length and its SHA-256 in hex, empty if the length is not the expected one."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            return size, hashlib.file_digest(file, "sha256").hexdigest() if size == expected else ""

    def lines(self, name: str) -> Generator[tuple[int, bytes]]:
        """Yield a file's lines with their numbers; the last may lack its newline."""
        with self.open(name) as file:
            number = 0
            while line := file.readline(LINE_BYTES):
                number += 1
                if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                    raise FormatError(f"{name}: line {number} is longer than {LINE_BYTES:,} bytes")
                yield number, line

    @contextmanager
    def open(self, name: str) -> "Generator[BufferedReader[FileIO]]":
        """Open a file of the folder itself."""
        parts = PurePosixPath(name).parts
        try:
            if len(parts) == _DEEPEST and not stat.S_ISDIR((self._path / parts[0]).lstat().st_mode):
                raise FormatError(f"{parts[0]} is not a folder")
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise FormatError(f"{name} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FormatError(f"{name} is not a regular file")
        with BufferedReader(FileIO(descriptor), 1 << 20) as file:
            yield file


def is_safe(name: str) -> bool:
    """Return whether a name is valid for a file in an export: relative, without `..`, at most one folder deep."""
    parts = name.split("/")
    return len(parts) <= _DEEPEST and all(
        part and part.strip(".") and part.isprintable() and "\\" not in part for part in parts
    )


_PIECE: Final = 1 << 20


class HashedFile:
    """A file of an export, written sequentially and hashed."""

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
        """Close the file without an error; it is about to be removed."""
        with suppress(OSError):
            self._file.close()

    def close(self) -> tuple[int, str]:
        """Sync and close the file; return its length and its hash in hex."""
        with _explained(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return self._bytes, self._hash.hexdigest()


class FreshFolder:
    """A new folder. Raises `CommandError`: exit 4 if it exists, 3 without a parent folder, 5 without disk space."""

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
        """Return the temporary path of a file."""
        return self._part / name

    def file(self, name: str) -> HashedFile:
        """Return a file, opened at the first call."""
        if name not in self._open:
            self._open[name] = HashedFile(self.at(name))
        return self._open[name]

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file."""
        self.file(name).write(data)

    def adopt(self, name: str) -> None:
        """Add a file that was written by other means."""
        with _explained(self.at(name)), self.at(name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.files.append(File(path=name, bytes=size, sha256=hashlib.file_digest(file, "sha256").hexdigest()))
            os.fsync(file.fileno())

    def close_files(self) -> tuple[File, ...]:
        """Close all open files; return all files by name."""
        for name, file in self._open.items():
            size, sha256 = file.close()
            self.files.append(File(path=name, bytes=size, sha256=sha256))
        self._open = {}
        return tuple(sorted(self.files, key=lambda each: each.path))

    def finish(self) -> None:
        """Rename the temporary folder to its final name."""
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
