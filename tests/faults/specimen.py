"""A small, flawless piece of evidence, made without any server: for the tests of the checks."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson

from tests.faults import messages as m
from tests.faults.evidence import COMMANDS, DEAD, EVENTS, Evidence, Fault, Notes, Sample
from tests.faults.history import History, Request
from tests.faults.load import OURS
from tests.faults.market import order_key
from tests.faults.refolding import Refolded
from tests.faults.saga import NAME, make_drill
from tradesaga.consumers.saga_log.reading import Rules
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.partitioner import partition_of
from tradesaga.schemas.envelope import Envelope, Header
from tradesaga.schemas.messages.lifecycle import Bar
from tradesaga.schemas.messages.message import Command, Message, wire_type
from tradesaga.schemas.topics import PARTITIONS

TIME = "2026-11-23T04:00:00.000000000Z"
MONEY = 1000


@dataclass
class Specimen:
    """Topics, outbox and effects as they grow."""

    records: list[Record] = field(default_factory=list[Record])
    outbox: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    effects: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ends: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    seqs: Counter[int] = field(default_factory=Counter[int])

    def say(self, saga_id: UUID, message: Message) -> None:
        """Publish a message through the outbox."""
        number = len(self.records)
        ce_id, ce_type = str(uuid5(saga_id, str(number))), wire_type(NAME, type(message))
        headers = Envelope(ce_type, ce_id, "/drill/desk", str(saga_id), TIME).to_headers()
        topic = COMMANDS if isinstance(message, Command) else EVENTS
        self._put(topic, str(saga_id).encode(), message.to_wire(), headers)
        self._write(saga_id, topic, ce_id, ce_type, None)

    def bury(self, saga_id: UUID, ce_id: str) -> None:
        """Put a poison on the events topic and its copy on the dead letters."""
        key = str(saga_id).encode()
        envelope = Envelope(f"{NAME}.nothing.v9", ce_id, f"{OURS}poison", str(saga_id), TIME)
        place = self._put(EVENTS, key, b"poison", envelope.to_headers())
        added = {"ts_dlt_topic": EVENTS, "ts_dlt_partition": str(place[1]), "ts_dlt_offset": str(place[2])}
        headers = [*envelope.to_headers(), *((name, text.encode()) for name, text in added.items())]
        self._put(DEAD, key, b"poison", headers)
        self._write(saga_id, DEAD, ce_id, envelope.type, headers)

    def move(self, saga_id: UUID, step: str, direction: str, amount: int) -> None:
        """Have an effect on the money."""
        row = {"saga_id": str(saga_id), "step": step, "direction": direction, "amount": Decimal(amount)}
        self.effects.append({"id": len(self.effects) + 1, **row})

    def _put(self, topic: str, key: bytes, value: bytes, headers: list[Header]) -> tuple[str, int, int]:
        partition = partition_of(key, PARTITIONS)
        place = (topic, partition, self.ends[topic, partition])
        self.ends[topic, partition] += 1
        self.records.append(Record(*place, 1_000_000 + len(self.records), key, value, headers))
        return place

    def _write(self, saga_id: UUID, topic: str, ce_id: str, ce_type: str, headers: list[Header] | None) -> None:
        lane = partition_of(str(saga_id).encode(), PARTITIONS) + 1
        self.seqs[lane] += 1
        text = orjson.dumps({name: value.decode() for name, value in headers}).decode() if headers else None
        row = {"lane": lane, "seq": self.seqs[lane], "id": ce_id, "topic": topic, "key": str(saga_id)}
        self.outbox.append({**row, "type": ce_type, "headers": text})


def make_evidence() -> Evidence:
    """Give the evidence of a run in which three sagas completed, one was refused and two were taken back."""
    specimen, history, orders = Specimen(), History(), dict[str, tuple[str, int]]()
    calls: list[tuple[str, str, int]] = []
    for number, end in enumerate(("filled", "filled", "refused", "lost", "filled", "lost")):
        saga_id = uuid5(NAMESPACE_URL, str(number))
        plan = {"refused": {"reserve": "refuse"}, "lost": {"fill": "lost"}}.get(end, {})
        history.requests[str(saga_id)] = Request(str(saga_id), str(number), "account", "http", plan, ["ok"])
        _live(specimen, saga_id, plan, end)
        if end != "refused":
            orders[order_key(saga_id)] = (end, 1)
            calls.append(("place", order_key(saga_id), 1))
    specimen.bury(uuid5(NAMESPACE_URL, "nobody"), "poison-1")
    notes = Notes(
        money=str(MONEY), faults=[Fault("A", "kill", 1.0, 2.0, 3.0)], samples=[Sample(str(MONEY))] * 3,
        planted={"poison-1": "unknown type"}, fenced=1,
        peak_mb={"desk1": 100.0}, growth={"desk1": 0.5}, lag_ms={"desk1": 20.0}, drained=1.0,
    )  # fmt: skip
    notes.samples = [Sample(str(MONEY)) for _ in range(3)]
    specimen.records.sort(key=lambda record: record[:3])
    ends = {place: end for place, end in specimen.ends.items() if place[0] != DEAD}
    committed = {(f"{NAME}-desk", *place): end for place, end in ends.items()}
    return Evidence(history, _tables(specimen), specimen.records, ends, committed, orders, calls, notes)


def _live(specimen: Specimen, saga_id: UUID, plan: dict[str, str], end: str) -> None:
    """Have one saga go its way."""
    say, move = specimen.say, specimen.move
    say(saga_id, m.Asked(idempotency_key="1", account="a", plan=plan))
    if end == "refused":
        say(saga_id, m.ReserveRefused(reason="planned"))
        return
    say(saga_id, m.Reserved(amount="10"))
    move(saga_id, "reserve", "forward", 10)
    say(saga_id, m.Charged(fee="1"))
    move(saga_id, "charge", "forward", 1)
    say(saga_id, m.Ordered(ref="r"))
    if end == "filled":
        say(saga_id, m.Filled(ref="r"))
        say(saga_id, m.Settled(amount="9"))
        move(saga_id, "settle", "forward", 9)
        return
    say(saga_id, m.FillLost(reason="planned"))
    say(saga_id, Bar(step="fill"))
    say(saga_id, m.CancelOrder())
    say(saga_id, m.OrderCancelled())
    say(saga_id, m.Refunded())
    move(saga_id, "charge", "back", -1)
    say(saga_id, m.Released())
    move(saga_id, "reserve", "back", 10)


def _tables(specimen: Specimen) -> dict[str, list[dict[str, Any]]]:
    rules = Rules(make_drill().saga)
    folded = Refolded(specimen.records)
    sagas = [
        {
            "saga_id": str(saga_id), "version": 1, "state": str(checkpoint.status), "seq": checkpoint.seq,
            "completed_steps": rules.machine.names(checkpoint.state.done), "head": checkpoint.head,
            "compensated_steps": rules.machine.names(checkpoint.state.compensated),
        }
        for saga_id, tracked in folded.sagas.items() if (checkpoint := tracked.snapshot) is not None
    ]  # fmt: skip
    audit = [
        {
            "topic": EVENTS, "partition": r.partition, "offset": r.offset, "saga_id": (r.key or b"").decode(),
            "seq": folded.entries[r.partition, r.offset].seq, "hash": folded.entries[r.partition, r.offset].hash,
            "digest": sha256(r.value).digest(), "writer_epoch": 3,
        }
        for r in specimen.records if r.topic == EVENTS
    ]  # fmt: skip
    lanes = [
        {
            "id": number + 1, "group": f"{NAME}-desk", "topic": EVENTS, "partition": number, "epoch": 3,
            "next_offset": specimen.ends[EVENTS, number], "last_seq": specimen.seqs[number + 1],
            "published_seq": specimen.seqs[number + 1],
        }
        for number in range(PARTITIONS)
    ]  # fmt: skip
    paid = sum((row["amount"] for row in specimen.effects if row["step"] != "reserve"), Decimal(0))
    accounts = [{"account": "a", "free": MONEY - paid}]
    started = [{"saga_id": row["saga_id"]} for row in sagas]
    return {
        "sagas": sagas, "audit": audit, "outbox": specimen.outbox, "lanes": lanes, "parked": [], "started": started,
        "effects": specimen.effects, "holds": [], "accounts": accounts, "due": [],
    }  # fmt: skip
