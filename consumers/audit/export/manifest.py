"""The manifest of an export: query, counts and file hashes, the note that signs it, and the README."""

import hashlib
from typing import Annotated, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tradesaga.consumers.audit.export.layout import FORMAT, FormatError
from tradesaga.infra.audit_log.note import Signer
from tradesaga.infra.clock import format_time
from tradesaga.schemas.invalid import first_invalid

_NOTE: Final = "tradesaga audit export\nmanifest.json sha256 {}\n"

Count = Annotated[int, Field(ge=0, lt=2**63)]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Query(_Part):
    """The query; times are the broker's in milliseconds since 1970, the end excluded."""

    saga: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    ids: tuple[str, ...] = ()
    account: str | None = None
    symbol: str | None = None

    @property
    def whole(self) -> bool:
        """Whether all records, at most between two times, were asked for."""
        return not (self.ids or self.account is not None or self.symbol is not None)


class Log(_Part):
    """A log: its exported records, and the checkpoint that proves them.

    `retired` is the number of its retired records. `gaps` are ranges of offsets, last included, that the audit log
    lacks and that no record covers as skipped.
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
    """The clock sources and errors, in nanoseconds, of these logs' checkpoints."""

    checkpoints: Count = 0
    sources: dict[str, Count] = {}
    worst_error_ns: Annotated[int, Field(ge=-1)] = -1
    unknown: Count = 0


class File(_Part):
    """A file with its length and hash."""

    path: Annotated[str, Field(max_length=500)]
    bytes: Count
    sha256: Sha256


class Manifest(_Part):
    """The content of `manifest.json`."""

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
        """Return the indented JSON."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def parse(cls, text: bytes) -> "Manifest":
        """Parse what `to_bytes` returned. Raises `FormatError`."""
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            first = first_invalid(error)
            raise FormatError(f"{first.field[:200] or 'the file'}: {first.reason[:200]}") from None
        if found.to_bytes() != text:
            raise FormatError("it is not as exports write it: other spaces, or repeated members")
        return found


def note_text(manifest: bytes) -> str:
    """Return the text that is signed for a manifest."""
    return _NOTE.format(hashlib.sha256(manifest).hexdigest())


def sign(signer: Signer, manifest: bytes) -> str:
    """Return the signed note of a manifest."""
    return signer.sign(note_text(manifest))


_TEXT = """# An export of an audit log

Installation `{log_id}`, made {made_at} by {software}. Asked for: {query}.

{records} records of {sagas} sagas in {logs} logs; {orders} order records. {unsealed}

## What is here

| file | what it is |
|---|---|
| `manifest.json` | the question, counts, the offsets and leaves of each log, each file's SHA-256 |
| `manifest.note` | its signature, by `{export_key}` |
| `events.jsonl` | every record, one JSON object a line, in the order of the logs, with all bytes that were sealed |
| `events.parquet` | the same as columns{parquet} |
| `sagas.jsonl` | the state of each saga, as the records before it made it |
| `orders.csv` | order records |
| `schemas/` | JSON Schema of each message |
| `checkpoints.jsonl` | what the sealer signed of each log |
| `proofs.jsonl` | roots of those parts of the trees whose records are not here |
| `keys.txt` | public keys |{actions}

## How to check it

    tradesaga audit verify --export . --key SEALS --export-key EXPORTS

needs no network and no server. SEALS and EXPORTS are files with public keys, as the firm has published them or handed
them to you before: without them the folder's own `keys.txt` is taken, which whoever made the folder could have made up.
SEALS are the keys that have sealed what is here, while the trade was done:

{keys}

EXPORTS is the key that has signed the folder, where it is another one; it is believed in nothing but that:

    {export_key}

## How it is proven, for those who check by themselves

1. `manifest.note` is a signed note (c2sp.org/signed-note) over two lines, the second with the SHA-256 of
   `manifest.json`; that has the SHA-256 of every other file.
2. A record's hash of format 2 has 33 bytes: 0x02 || SHA-256("tradesaga leaf 2\\n" || partition (4 bytes) || offset (8)
   || recorded_ms (8) || skipped (8) || number of headers (4) || length of each header's name (4 each) || the names ||
   lengths (4 each) of the following, -1 for one that is null || previous || topic || key || value || each header's
   value), integers big-endian. `skipped` is the number of offsets directly before the record's that Kafka gives to no
   consumer, control records of transactions and records of aborted ones; 0 where the line does not have it. The record
   before in the log, if there is one, is at `offset` - `skipped` - 1. `headers` is JSON: an object of names and values,
   or an array of pairs of them, in which null is no value and {{"base64": ...}} bytes that are no UTF-8. In the place
   of the value of `ts_context` stands its SHA-256.
   A hash of format 1 has 32 bytes, is SHA-256(previous || topic || 0x00 || partition (4) || offset (8) || recorded_ms
   (8) || length of headers (4) || headers || value), integers unsigned, and does not cover the key. The line
   `leaf-format 2 from N` of a checkpoint says that all records from offset N on, and none before, are of format 2.
   `previous` is the hash of the record before of the same saga, by `seq`; it stands in the line where that one is not
   here, and is empty for the first one and where `seq` is null.
3. Each log is a Merkle tree as in RFC 6962 with one leaf a record: leaf = SHA-256(0x00 || hash), node = SHA-256(0x01
   || left || right). `leaf` is a record's place. A line of `proofs.jsonl` is the root of the 2^level leaves from its
   `leaf` on. Put together in order they give the root in the log's last checkpoint of `checkpoints.jsonl`, a signed
   note in the form of c2sp.org/tlog-checkpoint.

What is proven: {proven}
"""

_ACTIONS = """
| `actions.jsonl` | what operators did to the audit log, each signed: who has retired its oldest records, and why |"""

_WHOLE = """each record is the one that was sealed, and no record of these logs is missing{window}. Not sealed are
`context_added`, `error`, `sagas.jsonl`, `orders.csv` and `events.parquet`: they follow from the records, and stand
under the signature of `manifest.note` alone."""

_WINDOW = """ between the
two times: one record before and one after show where they begin and end"""

_FILTERED = """each record is the one that was sealed, and of each saga that is here no record before its last is
missing. That the sagas here are all that were asked for, and that none has a later record than its last, stands under
the signature of `manifest.note`; the seals prove it of an export of whole logs alone. The same holds for
`context_added`, `error`, `sagas.jsonl`, `orders.csv` and `events.parquet`, which follow from the records."""


def write_readme(manifest: Manifest, *, parquet: bool) -> str:
    """Return the README of an export."""
    query = manifest.query
    window = _WINDOW if query.from_ms is not None or query.to_ms is not None else ""
    unsealed = f"{manifest.not_yet_sealed:,} newer records were not sealed yet, and are not here."
    return _TEXT.format(
        log_id=manifest.log_id,
        made_at=manifest.made_at,
        software=manifest.software,
        query=describe_query(query),
        records=f"{manifest.records:,}",
        sagas=f"{manifest.sagas:,}",
        logs=len(manifest.logs),
        orders=f"{manifest.orders:,}",
        unsealed=unsealed if manifest.not_yet_sealed else "",
        export_key=manifest.export_key,
        parquet="" if parquet else " (left out: pyarrow was not installed)",
        actions=_ACTIONS if any(log.retired for log in manifest.logs) else "",
        keys="\n".join(f"    {key}" for key in manifest.seal_keys),
        proven=_WHOLE.format(window=window) if query.whole else _FILTERED,
    )


def describe_query(query: Query) -> str:
    """Return the query in words."""
    told = [f"{name} {value}" for name, value in (("saga", query.saga), ("account", query.account),
        ("symbol", query.symbol)) if value is not None]  # fmt: skip
    told += [f"saga {saga_id}" for saga_id in query.ids]
    times = (("recorded from", query.from_ms), ("recorded before", query.to_ms))
    told += [f"{name} {format_time(at * 1_000_000)}" for name, at in times if at is not None]
    return ", ".join(told) or "everything"
