"""Key files: the private key that signs, and the trusted public keys."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tradesaga.infra.audit_log.note import NoteError, Signer, Verifier
from tradesaga.infra.errors import CommandError, ExitCode

T = TypeVar("T")


def read_signer(path: Path) -> Signer:
    """Read a private key. Raises `CommandError`: exit 3 if the file is missing, exit 2 if it is invalid."""
    return _read(path, Signer.parse)


def read_trusted(paths: Iterable[Path]) -> dict[bytes, Verifier]:
    """Read public keys, one per line, by their ids. Raises `CommandError`: exit 3 or 2."""
    keys = [key for path in paths for key in _read(path, _parse_all)]
    return {key.id: key for key in keys}


def write_new(path: Path, name: str) -> Verifier:
    """Create a key pair: the private key readable by its owner only, the public key in `<path>.pub`.

    Raises `CommandError`: exit 4 if the file exists, exit 2 for an invalid name.
    """
    try:
        signer = Signer.generate(name)
    except NoteError as error:
        raise CommandError("usage", str(error), "--name", "choose another", ExitCode.USAGE) from error
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        do = "choose another file: a key is needed for as long as its signatures"
        raise CommandError("key-exists", "a key exists already", str(path), do, ExitCode.REFUSED) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(signer.secret() + "\n")
    public_path(path).write_text(f"{signer.verifier}\n")
    return signer.verifier


def public_path(path: Path) -> Path:
    """Return the file of the public key."""
    return path.with_name(path.name + ".pub")


def _parse_all(text: str) -> list[Verifier]:
    return [Verifier.parse(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text())
    except OSError as error:
        do = "make one with `tradesaga audit keygen`, or name its file in TRADESAGA_AUDIT_KEY"
        raise CommandError(
            "key-missing", f"the key cannot be read: {error.strerror}", str(path), do, ExitCode.NOT_FOUND
        ) from error
    except (NoteError, UnicodeDecodeError) as error:
        what = str(error) if isinstance(error, NoteError) else "not a key file"
        raise CommandError("key-invalid", what, str(path), "name the right file", ExitCode.USAGE) from error
