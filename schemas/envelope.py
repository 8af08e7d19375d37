"""The envelope: CloudEvents 1.0 headers in binary mode, plus `ts_` headers of our own.

Routing and folding use these headers alone; the value is the plain JSON of one message.
"""

import re
from collections.abc import Iterable, Mapping
from json import JSONDecoder
from typing import Final, NamedTuple, Self

Header = tuple[str, bytes]

CONTEXT_LIMIT: Final = 64 * 1024
"""Bytes of `ts_context` a saga may carry by default."""

TYPE: Final = "ce_type"
ID: Final = "ce_id"
SAGA_ID: Final = "ce_correlationid"
STEP: Final = "ts_step"
ROUND: Final = "ts_round"
CONTEXT: Final = "ts_context"
MAC: Final = "ts_mac"
"""Reserved: the id of a key, a colon, and the HMAC-SHA256 of the record without this header."""
ENCRYPTED: Final = b"application/vnd.tradesaga.encrypted"
"""Reserved: the content type of a value that is ciphertext."""
VERSION: Final = "ts_version"
REQUEST: Final = "ts_request"

SPECVERSION: Final = "ce_specversion"
SPEC: Final = b"1.0"
"""The one version of CloudEvents that is written and read."""
OVERTAKES: Final = "ts_overtakes"
"""On a deadline: it is folded although records of its saga are parked, and they block no others from then on."""

_REQUIRED: Final = (TYPE, ID, "ce_source", "ce_time", SAGA_ID)
_OPTIONAL: Final = {
    "causation": "ce_causationid", "sequence": "ce_sequence", "expiry": "ce_expirytime", "recorded": "ce_recordedtime",
    "traceparent": "traceparent", "tracestate": "tracestate", "step": STEP, "request": REQUEST,
}  # fmt: skip
"""The headers of an envelope's optional texts, by field."""
_TEXTS: Final = (TYPE, ID, "ce_source", SAGA_ID, "ce_time", *_OPTIONAL.values())
"""The headers of an envelope's first fields, `type` to `request`, in order."""
_FIXED: Final[tuple[Header, ...]] = ((SPECVERSION, SPEC), ("content-type", b"application/json"))
_MOST: Final = 2**31 - 1
_LATEST: Final = 2**63 - 1
_TEXTS_LIMIT: Final = 16 * 1024
"""Characters of all texts of an envelope: records that follow from one repeat some, within the broker's limit."""
_SHOWN: Final = 200
"""Characters of a parser's error text, which may repeat its whole input."""
_UUID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class EnvelopeError(ValueError):
    """A record's headers are not a valid envelope; the message names the header."""


class ContextTooLargeError(ValueError):
    """A saga's context would exceed its limit; store large data elsewhere and carry a reference (`dataref`)."""


class Envelope(NamedTuple):
    """The headers of one record.

    `time` is RFC 3339 in UTC with nanoseconds, by the producer's clock; `started` the nanoseconds since 1970 at which
    the attempt began; `context` a JSON object of the saga's events by name; `request` the hash of the start. `version`
    is that of the saga's definition; 0 if the record has none, which means version 1.
    """

    type: str
    id: str
    source: str
    saga_id: str
    time: str
    causation: str = ""
    sequence: str = ""
    expiry: str = ""
    recorded: str = ""
    traceparent: str = ""
    tracestate: str = ""
    step: str = ""
    request: str = ""
    round: int = 1
    attempt: int = 1
    started: int = 0
    context: bytes = b""
    version: int = 0

    def to_headers(self) -> list[Header]:
        """Return the headers; empty fields are left out."""
        saga_id = self.saga_id.encode()
        headers: list[Header] = [
            (TYPE, self.type.encode()),
            (ID, self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_time", self.time.encode()),
            (SAGA_ID, saga_id),
            ("ce_subject", saga_id),
            *_FIXED,
        ]
        # The version comes first, so that a reader that does not know it finds it before the type.
        if self.version:
            headers.insert(0, (VERSION, b"%d" % self.version))
        for field, name in _OPTIONAL.items():
            if text := getattr(self, field):
                headers.append((name, text.encode()))
        if self.step:
            headers.append((ROUND, b"%d" % self.round))
            headers.append(("ts_attempt", b"%d" % self.attempt))
            headers.append(("ts_started", b"%d" % self.started))
        if self.context:
            headers.append((CONTEXT, self.context))
        return headers

    @classmethod
    def from_headers(cls, headers: Iterable[Header]) -> Self:
        """Read a record's headers; raises `EnvelopeError` for a header that is missing or unreadable."""
        found = dict(headers)
        check_required(found)
        get = found.get
        try:
            texts = [value.decode() if (value := get(name)) else "" for name in _TEXTS]
            round_, attempt = int(get(ROUND) or 1), int(get("ts_attempt") or 1)
            started, version = int(get("ts_started") or 0), int(get(VERSION) or 0)
        except ValueError as error:
            raise EnvelopeError(f"a header cannot be read: {str(error)[:_SHOWN]}") from None
        if not (0 <= round_ <= _MOST and 0 <= attempt <= _MOST and 0 <= started <= _LATEST and 0 <= version <= _MOST):
            raise EnvelopeError("a number in the ts_ headers is out of its range")
        whole = "".join(texts)
        if "\0" in whole:
            raise EnvelopeError("a header has a NUL character, which PostgreSQL cannot store")
        if len(whole) > _TEXTS_LIMIT:
            raise EnvelopeError(f"the headers' texts have {len(whole)} characters; {_TEXTS_LIMIT} are allowed")
        context = get(CONTEXT) or b""
        return cls(*texts, round=round_, attempt=attempt, started=started, context=context, version=version)


def check_required(found: Mapping[str, bytes]) -> None:
    """Check the specversion, that type, id, source and time are there, and that the saga id is a UUID.

    Raises `EnvelopeError`. A missing specversion is read as 1.0.
    """
    if found.get(SPECVERSION, SPEC) != SPEC:
        raise EnvelopeError(foreign_specversion(found[SPECVERSION]))
    for name in _REQUIRED:
        if not found.get(name):
            raise EnvelopeError(f"header {name} is missing")
    if not _UUID.fullmatch(found[SAGA_ID]):
        raise EnvelopeError(f"header {SAGA_ID} is not a UUID in lower case")


def foreign_specversion(found: bytes | None) -> str:
    """Describe a specversion that is not read; `found` is None for a header without a value."""
    return f"header {SPECVERSION} is {(found or b'')[:20].decode('utf-8', 'replace')!r}; only CloudEvents 1.0 are read"


# Numbers stay text: one with thousands of digits would raise, and the values are not used.
_MEMBERS: Final = JSONDecoder(parse_int=str, parse_float=str)


def splice(context: bytes, name: str, value: bytes, limit: int = CONTEXT_LIMIT) -> bytes:
    """Append `"name": value` to the JSON object `context` without parsing it; raises `ContextTooLargeError`.

    A name that is there already is appended again: JSON parsers use the last one.
    """
    member = b'"%s":%s' % (name.encode(), value)
    spliced = b"%s,%s}" % (context[:-1], member) if len(context) > 2 else b"{%s}" % member  # noqa: PLR2004 - "{}"
    if len(spliced) > limit:
        raise ContextTooLargeError(f"context of {len(spliced)} bytes passes the limit of {limit}; carry a dataref")
    return spliced


def first_fact(context: bytes) -> bytes:
    """Return a context with its first member alone, byte for byte; raises `ValueError` if it is no JSON object."""
    text = context.decode()
    begin = text.index(":") + 1
    begin += len(text) - begin - len(text[begin:].lstrip(" \t\r\n"))
    _, end = _MEMBERS.raw_decode(text, begin)
    return f"{text[:end]}}}".encode()
