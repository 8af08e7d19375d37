"""What reads bytes of strangers: each input is read, or refused by the one error that its callers expect."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.doors import order
from tests.fuzz.corpus import Corpus
from tests.fuzz.mutation import HOSTILE, Mutator
from tests.keys import KEYS
from tradesaga.consumers.entry.signals.routing import read_signal
from tradesaga.consumers.entry.start_intake import Intake
from tradesaga.consumers.runtime.event_factory import Trigger, pack_trigger, split_packed
from tradesaga.consumers.runtime.message import Router
from tradesaga.consumers.services import risk
from tradesaga.infra.kafka.codec import Record, dump_headers, load_headers, pack, unpack
from tradesaga.infra.kafka.dead_letters import RecordFault, dead_letter
from tradesaga.infra.starts.accept import StartInvalidError, read_start
from tradesaga.infra.starts.strict_json import StrictJsonError, check_json
from tradesaga.infra.telemetry.tracing import next_traceparent
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.envelope import Envelope, EnvelopeError
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.topics import PARTITIONS

INPUTS = 3000
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
settings.register_profile("fuzz", deadline=None, derandomize=True, database=None, max_examples=400)


envelopes = st.builds(
    Envelope, texts.filter(bool), texts.filter(bool), texts.filter(bool), st.uuids().map(str), texts.filter(bool),
    *[texts] * 8, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1),
    st.binary(max_size=50), st.integers(0, 2**31 - 1),
)  # fmt: skip


@settings(settings.get_profile("fuzz"))
@given(envelopes)
def test_an_envelope_comes_back_as_it_went(envelope: Envelope) -> None:
    """Whatever is written into headers is read from them again; numbers go along with a step only."""
    back = Envelope.from_headers(envelope.to_headers())
    if envelope.step:
        assert back == envelope
    else:
        assert (back.type, back.id, back.context, back.round) == (envelope.type, envelope.id, envelope.context, 1)


@settings(settings.get_profile("fuzz"))
@given(st.lists(st.tuples(texts, st.binary(max_size=60)), max_size=8), st.binary(max_size=200))
def test_a_record_is_kept_whatever_it_holds(headers: list[tuple[str, bytes]], value: bytes) -> None:
    """Packed and unpacked the value is the same, and so are headers that are text; a second time nothing changes."""
    kept, same = unpack(pack(headers, value))
    assert same == value
    assert unpack(pack(kept, value)) == (kept, value)
    assert load_headers(dump_headers(kept)) == kept
    readable = {name: text for name, text in dict(headers).items() if text.decode("utf-8", "ignore").encode() == text}
    assert readable.items() <= dict(kept).items()


@pytest.mark.parametrize("seed", [31, 32])
def test_records_are_read_or_refused(seed: int) -> None:
    """Routing, envelope, cause, payload, dead letter: no error but those by which a batch goes on."""
    corpus, router = Corpus(trade, seed), Router(risk.participant, PARTITIONS)
    refused = read = 0
    for _ in range(INPUTS):
        record = corpus.bad()
        router.reports_stray(record.topic, record.headers)
        letter = dead_letter("trade", "fuzz", record, RecordFault("fuzz", "because"), 0)
        assert unpack(letter.packed)[1] == letter.value
        if not router.wants(record.headers):
            continue
        try:
            for message in router.read(1, record):
                trigger = Trigger.of(message)
                (part,) = split_packed(pack_trigger(trigger))
                assert Trigger.stored(part, trade.message_types, lambda _: None).value == record.value
                trigger.read()
                read += 1
        except (EnvelopeError, ValidationError):
            refused += 1
    assert min(read, refused) > INPUTS // 30, (read, refused)


@pytest.mark.parametrize("seed", [41, 42])
def test_starts_and_signals_are_read_or_refused(seed: int) -> None:
    """The front door on Kafka, the API's body and the signals' topic: a request, or one error with a reason."""
    chance = Random(seed)
    mutator, intake, refused = Mutator(chance, {}), Intake(trade, KEYS), 0
    kinds = (b"application/json", b"application/cloudevents+json", b"application/cloudevents-batch+json", b"", b"\xff")
    for number in range(INPUTS):
        good = str(order()).replace("'", '"').encode()
        value = HOSTILE[number] if number < len(HOSTILE) else mutator.bytes(good)
        if chance.random() < 0.4:
            value = b'{"specversion":"1.0","id":"1","source":"/s","type":"trade.trade-requested.v1","data":%s}' % value
        record = Record("trade.starts", 0, number, 0, b"k", value, [("content-type", chance.choice(kinds))])
        record = mutator.mutate(record) if chance.random() < 0.3 else record
        next_traceparent(record.header("traceparent").decode("utf-8", "replace"))
        signal = read_signal("trade", record)
        assert isinstance(signal, SignalRaised) or signal.reason
        for read in (lambda taken=record: intake.read(taken), lambda taken=record: read_start(trade, taken.value)):
            try:
                read()
            except StartInvalidError as error:
                refused += bool(str(error))
    assert refused > INPUTS


@settings(settings.get_profile("fuzz"))
@given(st.binary(max_size=300))
def test_any_bytes_are_json_or_not(text: bytes) -> None:
    """The strict parser has one error, and what it takes the lax one takes too."""
    try:
        found = check_json(text)
    except StrictJsonError:
        return
    assert found == json.loads(text)
