r"""Signed notes: text, a blank line, and a line for each signature, as c2sp.org/signed-note has them.

key id = first 4 bytes of SHA-256(name || "\n" || 0x01 || public key)
signature line = "— " name " " base64(key id || Ed25519 signature over the text)
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519: Final = b"\1"
_KEY_ID: Final = 4
_DASH: Final = "\N{EM DASH} "


class NoteError(Exception):
    """A note, or a key, is not what it should be."""


@dataclass(frozen=True)
class Verifier:
    """The public half of a key: who signs under `name`."""

    name: str
    key: Ed25519PublicKey

    @property
    def raw(self) -> bytes:
        """Give the public key's 32 bytes."""
        return self.key.public_bytes_raw()

    @property
    def id(self) -> bytes:
        """Give the 4 bytes by which signatures name their key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:_KEY_ID]

    def __str__(self) -> str:
        """Write the key as other tools of this format take it: `name+id+key`."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Read what `str` gives; raises `NoteError`."""
        name, raw = _parse_key(text.strip(), text)
        verifier = cls(name, Ed25519PublicKey.from_public_bytes(raw))
        if text.strip().split("+", 2)[1] != verifier.id.hex():
            raise NoteError(f"the key's id does not fit the key: {text.strip()}")
        return verifier


@dataclass(frozen=True)
class Signer:
    """The private half of a key."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str) -> "Signer":
        """Make a new key. A name has no spaces and no plus sign; raises `NoteError`."""
        if not name or any(each.isspace() or each == "+" for each in name):
            raise NoteError(f"{name!r} is no name of a key: it has neither spaces nor plus signs")
        return cls(name, Ed25519PrivateKey.generate())

    @property
    def verifier(self) -> Verifier:
        """Give the public half."""
        return Verifier(self.name, self.key.public_key())

    def secret(self) -> str:
        """Write the private key as other tools of this format take it; keep it where nobody else reads."""
        raw = base64.b64encode(_ED25519 + self.key.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.id.hex()}+{raw}"

    @classmethod
    def parse(cls, secret: str) -> "Signer":
        """Read what `secret` gives; raises `NoteError`, which does not repeat it."""
        if not secret.startswith("PRIVATE+KEY+"):
            raise NoteError("this is no private key: it does not begin with PRIVATE+KEY+")
        name, raw = _parse_key(secret.strip().removeprefix("PRIVATE+KEY+"), "the private key")
        return cls(name, Ed25519PrivateKey.from_private_bytes(raw))

    def sign(self, text: str) -> str:
        """Give the note: the text, which ends with a newline, and the signature."""
        if not text.endswith("\n"):
            raise NoteError("a note's text ends with a newline")
        signed = base64.b64encode(self.verifier.id + self.key.sign(text.encode())).decode()
        return f"{text}\n{_DASH}{self.name} {signed}\n"


def _parse_key(text: str, where: str) -> tuple[str, bytes]:
    try:
        name, _, encoded = text.split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise NoteError(f"this is no key of the form name+id+key: {where}") from error
    if raw[:1] != _ED25519 or len(raw) != 33:  # noqa: PLR2004 - a byte for the algorithm, 32 of key
        raise NoteError(f"the key is no Ed25519 key: {where}")
    return name, raw[1:]


def open_note(note: str, verifiers: Mapping[bytes, Verifier]) -> tuple[str, list[Verifier]]:
    """Give a note's text and those of the known keys, by id, that have signed it.

    Signatures of unknown keys are passed over. Raises `NoteError` for a signature of a known key that does not hold,
    and where no known key has signed.
    """
    text, found = _split(note)
    signers: list[Verifier] = []
    for line in dict.fromkeys(found):  # a signature that is repeated would have the text hashed each time
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise NoteError(f"a signature line is not base64: {line}") from error
        if base64.b64encode(raw).decode() != encoded:
            raise NoteError(f"a signature line is not base64 as it is written: {line}")
        verifier = verifiers.get(raw[:_KEY_ID])
        if verifier is None or verifier.name != name:
            continue
        try:
            verifier.key.verify(raw[_KEY_ID:], text.encode())
        except InvalidSignature as error:
            raise NoteError(f"the signature of {name} does not hold") from error
        signers.append(verifier)
    if not signers:
        raise NoteError("no known key has signed this note")
    return text, signers


def _split(note: str) -> tuple[str, list[str]]:
    text, blank, rest = note.rpartition("\n\n")
    lines = rest.split("\n")
    if not blank or lines[-1] or not lines[:-1] or not all(line.startswith(_DASH) for line in lines[:-1]):
        raise NoteError("this is no signed note: text, a blank line, signature lines")
    return text + "\n", lines[:-1]
