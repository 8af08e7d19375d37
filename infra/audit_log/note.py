r"""Signed notes: text, a blank line, and a line for each signature, as c2sp.org/signed-note has them.

key id = first 4 bytes of SHA-256(name || "\n" || 0x01 || public key)
signature line = "— " name " " base64(key id || Ed25519 signature over the text)
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tradesaga.infra.errors import CommandError, ExitCode

_ED25519: Final = b"\1"

_KEY_ID: Final = 4

_DASH: Final = "\N{EM DASH} "


class NoteError(Exception):
    """A note or a key is invalid."""


@dataclass(frozen=True)
class Verifier:
    """A public key and the name of its owner."""

    name: str
    key: Ed25519PublicKey

    @property
    def raw(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_bytes_raw()

    @property
    def id(self) -> bytes:
        """The key id in signatures, 4 bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:_KEY_ID]

    def __str__(self) -> str:
        """Return the key in the format of other tools: `name+id+key`."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Parse what `str` returned. Raises `NoteError`."""
        name, raw = _parse_key(text.strip(), text)
        verifier = cls(name, Ed25519PublicKey.from_public_bytes(raw))
        if text.strip().split("+", 2)[1] != verifier.id.hex():
            raise NoteError(f"the key id does not match the key: {text.strip()}")
        return verifier


@dataclass(frozen=True)
class Signer:
    """A private key."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str) -> "Signer":
        """Generate a key. Raises `NoteError` for a name with spaces or plus signs."""
        if not name or any(each.isspace() or each == "+" for each in name):
            raise NoteError(f"{name!r} is not a valid key name: it must not contain spaces or plus signs")
        return cls(name, Ed25519PrivateKey.generate())

    @property
    def verifier(self) -> Verifier:
        """The public key."""
        return Verifier(self.name, self.key.public_key())

    def secret(self) -> str:
        """Return the private key in the format of other tools; keep it secret."""
        raw = base64.b64encode(_ED25519 + self.key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.id.hex()}+{raw}"

    @classmethod
    def parse(cls, secret: str) -> "Signer":
        """Parse what `secret` returned. Raises `NoteError`, which does not quote it."""
        if not secret.startswith("PRIVATE+KEY+"):
            raise NoteError("not a private key: it does not begin with PRIVATE+KEY+")
        name, raw = _parse_key(secret.strip().removeprefix("PRIVATE+KEY+"), "the private key")
        return cls(name, Ed25519PrivateKey.from_private_bytes(raw))

    def sign(self, text: str) -> str:
        """Return the note: the text, which must end with a newline, and its signature."""
        if not text.endswith("\n"):
            raise NoteError("a note's text ends with a newline")
        signed = base64.b64encode(self.verifier.id + self.key.sign(text.encode())).decode()
        return f"{text}\n{_DASH}{self.name} {signed}\n"


def _parse_key(text: str, where: str) -> tuple[str, bytes]:
    try:
        name, _, encoded = text.split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise NoteError(f"not a key of the form name+id+key: {where}") from error
    if raw[:1] != _ED25519 or len(raw) != 33:  # noqa: PLR2004 - a byte for the algorithm, 32 of key
        raise NoteError(f"not an Ed25519 key: {where}")
    return name, raw[1:]


def open_note(note: str, verifiers: Mapping[bytes, Verifier]) -> tuple[str, list[Verifier]]:
    """Return a note's text and the known keys that have signed it.

    Signatures of unknown keys are ignored. Raises `NoteError` for an invalid signature of a known key, and where no
    known key has signed.
    """
    text, found = _split(note)
    signers: list[Verifier] = []
    for line in dict.fromkeys(found):  # repeated signatures are verified once
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise NoteError(f"a signature line is not base64: {line}") from error
        if base64.b64encode(raw).decode() != encoded:
            raise NoteError(f"a signature line is not canonical base64: {line}")
        verifier = verifiers.get(raw[:_KEY_ID])
        if verifier is None or verifier.name != name:
            continue
        try:
            verifier.key.verify(raw[_KEY_ID:], text.encode())
        except InvalidSignature as error:
            raise NoteError(f"the signature of {name} is invalid") from error
        signers.append(verifier)
    if not signers:
        raise NoteError("no known key has signed this note")
    return text, signers


def _split(note: str) -> tuple[str, list[str]]:
    text, blank, rest = note.rpartition("\n\n")
    lines = rest.split("\n")
    if not blank or lines[-1] or not lines[:-1] or not all(line.startswith(_DASH) for line in lines[:-1]):
        raise NoteError("not a signed note (text, a blank line, signature lines)")
    return text + "\n", lines[:-1]


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
