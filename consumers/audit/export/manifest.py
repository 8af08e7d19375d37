"""What an export says of itself: the question, what was found, and each file's hash; and the note that signs it."""

import hashlib
from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tradesaga.consumers.audit.export.layout import FORMAT, FormatError
from tradesaga.infra.audit_log.note import Signer
from tradesaga.schemas.invalid import first_invalid

_NOTE: Final = "tradesaga audit export\nmanifest.json sha256 {}\n"

Count = Annotated[int, Field(ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Query(_Part):
    """What was asked for; times are the broker's, milliseconds since 1970, from the first on and before the second."""

    saga: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    ids: tuple[str, ...] = ()
    account: str | None = None
    symbol: str | None = None

    @property
    def whole(self) -> bool:
        """Return whether whole logs were asked for, at most between two times: every leaf is there."""
        return not (self.ids or self.account is not None or self.symbol is not None)


class Log(_Part):
    """One log: which records of it there are, and the checkpoint against which they are proven.

    `retired` is the number of its oldest records that are no longer kept. `gaps` are offsets, first and last, that the
    audit log lacks between those that it has, and that no record says to hold nothing.
    """

    origin: str
    topic: str
    partition: Annotated[int, Field(ge=0, lt=2**31)]
    records: Count
    first_leaf: Count
    last_leaf: Count
    first_offset: Count
    last_offset: Count
    size: Count
    checkpoint: Sha256
    not_yet_sealed: Count
    retired: Count = 0
    gaps: tuple[tuple[int, int], ...] = ()
    further_gaps: Count = 0


class ClockSummary(_Part):
    """What the machines that signed knew of their clocks while these logs were sealed; errors in nanoseconds."""

    checkpoints: Count = 0
    sources: dict[str, Count] = {}
    worst_error_ns: Annotated[int, Field(ge=-1)] = -1
    unknown: Count = 0


class File(_Part):
    """One file."""

    path: Annotated[str, Field(max_length=500)]
    bytes: Count
    sha256: Sha256


class Manifest(_Part):
    """All that `manifest.json` says."""

    format: Literal["tradesaga-audit-export/1", "tradesaga-audit-export/2"] = FORMAT
    log_id: str
    made_at: str
    software: str
    query: Query
    records: Count
    sagas: Count
    orders: Count
    not_yet_sealed: Count
    logs: tuple[Log, ...]
    types: dict[str, Count]
    definitions: dict[str, int]
    clock: ClockSummary
    seal_keys: tuple[str, ...]
    export_key: str
    files: tuple[File, ...]

    def to_bytes(self) -> bytes:
        """Write it, for people too."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def parse(cls, text: bytes) -> "Manifest":
        """Read what `to_bytes` wrote; raises `FormatError`."""
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            first = first_invalid(error)
            raise FormatError(f"{first.field[:200] or 'the file'}: {first.reason[:200]}") from None
        if found.to_bytes() != text:
            raise FormatError("it is not as exports write it: other spaces, or repeated members")
        return found


def note_text(manifest: bytes) -> str:
    """Return what is signed of a manifest."""
    return _NOTE.format(hashlib.sha256(manifest).hexdigest())


def sign(signer: Signer, manifest: bytes) -> str:
    """Return the signed note of a manifest."""
    return signer.sign(note_text(manifest))
