"""Keys in files: the private one that signs, and the public ones that may be believed."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tradesaga.infra.audit_log.note import NoteError, Signer, Verifier
from tradesaga.infra.errors import CommandError, ExitCode

T = TypeVar("T")


def read_signer(path: Path) -> Signer:
    """Read a private key; raises `CommandError`: exit 3 if there is none, exit 2 if it is none."""
    return _read(path, Signer.parse)


def read_trusted(paths: Iterable[Path]) -> dict[bytes, Verifier]:
    """Read public keys, one a line, by their ids; raises `CommandError`: exit 3 or 2."""
    keys = [key for path in paths for key in _read(path, _parse_all)]
    return {key.id: key for key in keys}


def write_new(path: Path, name: str) -> Verifier:
    """Make a key: the private half for its owner alone, the public one beside it as `<path>.pub`.

    Raises `CommandError`: exit 4 if there is one already, exit 2 for a name that is none.
    """
    try:
        signer = Signer.generate(name)
    except NoteError as error:
        raise CommandError("usage", str(error), "--name", "choose another", ExitCode.USAGE) from error
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        do = "choose another file: a key that has signed is needed for as long as what it has signed"
        raise CommandError("key-exists", "there is a key already", str(path), do, ExitCode.REFUSED) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(signer.secret() + "\n")
    public_path(path).write_text(f"{signer.verifier}\n")
    return signer.verifier


def public_path(path: Path) -> Path:
    """Name the file of the public half."""
    return path.with_name(path.name + ".pub")


def _parse_all(text: str) -> list[Verifier]:
    return [Verifier.parse(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text())
    except OSError as error:
        do = "make one with `tradesaga audit keygen`, or name its file in TRADESAGA_AUDIT_KEY"
        raise CommandError(
            "key-missing", f"no key can be read: {error.strerror}", str(path), do, ExitCode.NOT_FOUND
        ) from error
    except (NoteError, UnicodeDecodeError) as error:
        what = str(error) if isinstance(error, NoteError) else "this is no key"
        raise CommandError("key-invalid", what, str(path), "name the right file", ExitCode.USAGE) from error
