"""Headers: CloudEvents 1.0 in Kafka's binary mode, by the reckoning of the CloudEvents SDK, both ways."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from tradesaga.schemas.envelope import CONTEXT_LIMIT, ContextTooLargeError, Envelope, EnvelopeError, splice

SAGA = "6f1c1b7e-5b0a-5d5e-9d3b-3a7c6f0e8a11"
WHOLE = Envelope(
    type="trade.funds-reserved.v1",
    id="01890a5d-ac96-774b-bcce-b302099a8057",
    source="tradesaga/cash",
    saga_id=SAGA,
    time="2026-03-02T10:11:12.123456789Z",
    causation="cause-1",
    sequence="00000000000000000042",
    expiry="2026-03-02T10:12:00Z",
    recorded="2026-03-02T10:11:13Z",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="vendor=1",
    step="reserve_funds",
    request="ab" * 32,
    round=2,
    attempt=3,
    started=1_790_000_000_123_456_789,
    context=b'{"trade-requested":{"account":"a"}}',
    version=2,
)
LEAST = Envelope(type="trade.bar.v1", id="1", source="s", saga_id=SAGA, time="2026-03-02T10:11:12Z")

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
COUNTS = st.integers(0, 2**31 - 1)
UUIDS = st.uuids().map(str)
ENVELOPES = st.builds(
    Envelope, type=TEXTS, id=TEXTS, source=TEXTS, saga_id=UUIDS, time=TEXTS, causation=TEXTS, sequence=TEXTS,
    expiry=TEXTS, recorded=TEXTS, traceparent=TEXTS, tracestate=TEXTS, step=TEXTS, request=TEXTS, round=COUNTS,
    attempt=COUNTS, started=st.integers(0, 2**63 - 1), context=st.binary(max_size=50), version=COUNTS,
)  # fmt: skip


@given(ENVELOPES)
def test_any_envelope_goes_to_headers_and_back(envelope: Envelope) -> None:
    """Nothing is lost or changed, whatever the texts hold."""
    assert Envelope.from_headers(envelope.to_headers()) == envelope


@pytest.mark.parametrize("envelope", [WHOLE, LEAST], ids=["whole", "least"])
def test_what_is_empty_is_left_out_and_reading_ignores_strangers(envelope: Envelope) -> None:
    """A header of another system, or one without a value, changes nothing."""
    headers: Any = [*envelope.to_headers(), ("x-other", b"1"), ("tracestate" if not envelope.tracestate else "y", None)]

    assert Envelope.from_headers(headers) == envelope
    assert all(value for _, value in envelope.to_headers())
    assert len({name for name, _ in envelope.to_headers()}) == len(envelope.to_headers())


def test_the_cloudevents_sdk_reads_our_records() -> None:
    """Required attributes, extensions and data come out as the specification has them."""
    headers = dict(WHOLE.to_headers())
    message = KafkaMessage(headers=headers, key=SAGA.encode(), value=b'{"asset":"USD","amount":"1"}')

    event = from_binary_event(message)

    assert (event.get_specversion(), event.get_type(), event.get_id()) == ("1.0", WHOLE.type, WHOLE.id)
    assert (event.get_source(), event.get_subject()) == (WHOLE.source, SAGA)
    assert event.get_time() == datetime(2026, 3, 2, 10, 11, 12, 123456, UTC)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == {"asset": "USD", "amount": "1"}
    extensions = ("correlationid", "causationid", "sequence", "recordedtime", "expirytime")
    values = (SAGA, "cause-1", WHOLE.sequence, WHOLE.recorded, WHOLE.expiry)
    assert tuple(event.get_extension(name) for name in extensions) == values


def test_we_read_records_of_the_cloudevents_sdk() -> None:
    """A plain CloudEvents client of another team may write to us."""
    attributes = {
        "type": "trade.trade-requested.v1", "source": "desk", "id": "e-1", "specversion": "1.0", "subject": SAGA,
        "time": datetime(2026, 3, 2, 10, 11, 12, tzinfo=UTC), "datacontenttype": "application/json",
        "correlationid": SAGA, "causationid": "c-1",
    }  # fmt: skip
    message = to_binary_event(CloudEvent(attributes=attributes, data={"account": "a"}))
    headers = [(name, value.encode() if isinstance(value, str) else value) for name, value in message.headers.items()]

    envelope = Envelope.from_headers(headers)

    assert (envelope.type, envelope.id, envelope.source) == ("trade.trade-requested.v1", "e-1", "desk")
    assert (envelope.saga_id, envelope.causation, envelope.round) == (SAGA, "c-1", 1)
    assert envelope.time.startswith("2026-03-02T10:11:12")


@pytest.mark.parametrize("name", ["ce_type", "ce_id", "ce_source", "ce_time", "ce_correlationid"])
def test_a_missing_header_is_named(name: str) -> None:
    """Whether it is absent or empty."""
    headers = [(key, value) for key, value in LEAST.to_headers() if key != name]

    for incomplete in (headers, [*headers, (name, b"")]):
        with pytest.raises(EnvelopeError, match=f"header {name} is missing"):
            Envelope.from_headers(incomplete)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_correlationid", b"not-a-uuid"), ("ce_correlationid", SAGA.upper().encode()), ("ce_correlationid", b"\xff"),
        ("ce_type", b"\xff\xfe"), ("ts_round", b"two"), ("ts_attempt", b"1.5"), ("ts_started", b"9" * 5000),
        ("ts_round", b"-1"), ("ts_attempt", b"2147483648"), ("ts_started", b"9223372036854775808"),
        ("ts_version", b"two"), ("ts_version", b"-1"), ("ts_version", b"2147483648"),
        ("ce_source", b"a\0"), ("tracestate", b"x" * 20_000), ("ts_request", b"x" * 900_000),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_read_is_an_envelope_error(name: str, value: bytes) -> None:
    """Bytes that are no text, a saga id that is no UUID, a number that is none: never another exception."""
    headers = {**dict(WHOLE.to_headers()), name: value}

    with pytest.raises(EnvelopeError, match=r"header"):
        Envelope.from_headers(list(headers.items()))


def test_context_is_spliced_without_being_parsed() -> None:
    """Members are appended byte for byte; of one name the last counts, as JSON parsers have it."""
    context = splice(b"", "a", b'{"x":1}')
    context = splice(context, "b", b"[2]")
    context = splice(context, "a", b"3")

    assert context == b'{"a":{"x":1},"b":[2],"a":3}'
    assert json.loads(context) == {"a": 3, "b": [2]}
    assert splice(b"{}", "a", b"1") == b'{"a":1}'


def test_a_context_beyond_its_limit_is_refused_with_the_way_out() -> None:
    """Exactly the limit fits, one byte more does not."""
    frame = len(b'{"a":""}')
    fits = splice(b"", "a", b'"' + b"x" * (CONTEXT_LIMIT - frame) + b'"')

    assert len(fits) == CONTEXT_LIMIT
    with pytest.raises(ContextTooLargeError, match=r"65537 bytes passes the limit of 65536; carry a dataref"):
        splice(b"", "a", b'"' + b"x" * (CONTEXT_LIMIT - frame + 1) + b'"')


def test_saga_ids_of_the_header_are_those_of_uuid() -> None:
    """The strict reading takes every UUID as Python writes it."""
    assert Envelope.from_headers(LEAST.to_headers()).saga_id == str(UUID(SAGA))


def test_another_specversion_is_refused() -> None:
    """We read CloudEvents 1.0 alone; a record without the header is taken for one."""
    headers = [(name, value) for name, value in WHOLE.to_headers() if name != "ce_specversion"]
    assert Envelope.from_headers(headers) == WHOLE
    with pytest.raises(EnvelopeError, match=r"ce_specversion is '9\.9'; only CloudEvents 1\.0 are read"):
        Envelope.from_headers([*headers, ("ce_specversion", b"9.9")])
