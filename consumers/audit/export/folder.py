"""Reading an export that anybody may have made: no link is followed, nothing outside is opened, no line is endless."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath
from typing import Final

from tradesaga.consumers.audit.export import layout
from tradesaga.consumers.audit.export.layout import FormatError
from tradesaga.consumers.audit.export.manifest import File
from tradesaga.infra.errors import CommandError, ExitCode

LINE_BYTES: Final = 64 << 20
"""No line of ours is longer: a record has a megabyte at most, and text grows sixfold at most."""
SMALL_BYTES: Final = 64 << 20
"""No manifest, key file or note of ours is longer."""
_DEEPEST: Final = 2


class ExportFolder:
    """One folder; all reading raises `FormatError` where a file is not there or is no file."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            do = "name the folder that `tradesaga audit export` made"
            raise CommandError("export-missing", "there is no such folder", str(path), do, ExitCode.NOT_FOUND)
        self._path = path

    def check_names(self, files: tuple[File, ...]) -> list[str]:
        """Say what is wrong with the names of the files: with those that are said, and those that are there."""
        said = [file.path for file in files]
        wrong = [f"{name[:200]!r} is no name of a file in an export" for name in said if not is_safe(name)]
        wrong += [
            f"{name[:200]!r} is said twice"
            for name in sorted(name for name, times in Counter(said).items() if times > 1)
        ]
        expected = {name for name in said if is_safe(name)} | {layout.MANIFEST, layout.SIGNATURE}
        there = self._list()
        wrong += [f"{name[:200]!r} is here, and the manifest does not know it" for name in sorted(there - expected)]
        return wrong

    def _list(self) -> set[str]:
        """Name what is in the folder; links are named, not followed."""
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
        """Give a file's length, and its SHA-256 in hex; no hash of one that has not the expected length."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            return size, hashlib.file_digest(file, "sha256").hexdigest() if size == expected else ""

    def lines(self, name: str) -> Generator[tuple[int, bytes]]:
        """Give a file's lines with their numbers; the last may lack its end."""
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
                raise FormatError(f"{parts[0]} is no folder")
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise FormatError(f"{name} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FormatError(f"{name} is no file")
        with BufferedReader(FileIO(descriptor), 1 << 20) as file:
            yield file


def is_safe(name: str) -> bool:
    """Say whether a name can be that of a file in an export: relative, no step up, at most one folder."""
    parts = name.split("/")
    return len(parts) <= _DEEPEST and all(
        part and part.strip(".") and part.isprintable() and "\\" not in part for part in parts
    )
