"""Corrupts one source of a snapshot at a time, in ways that each check must notice."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from decimal import Decimal
from typing import Any

from tradesaga.producers.demo.checks import run_checks
from tradesaga.producers.demo.snapshot import Rows, Said, Snapshot
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.trade import TradeFilled

Corruption = Callable[[Snapshot], None]


def _first(rows: Rows, **wanted: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def _filled(shot: Snapshot) -> dict[str, Any]:
    """Return a trade of a completed saga."""
    return shot.venue["trades"][0]


def venue_fill_changed(shot: Snapshot) -> None:
    """The venue filled one unit more than it said."""
    fill = _filled(shot)
    fill["quantity"] = format_decimal(Decimal(fill["quantity"]) + 1)


def venue_fee_changed(shot: Snapshot) -> None:
    """The venue took a cent more."""
    fill = _filled(shot)
    fill["fee"] = format_decimal(Decimal(fill["fee"]) + Decimal("0.01"))


def venue_order_doubled(shot: Snapshot) -> None:
    """The venue has the same order twice."""
    shot.venue["orders"].append(dict(shot.venue["orders"][0]))


def venue_order_foreign(shot: Snapshot) -> None:
    """The venue has an order that no saga placed."""
    shot.venue["orders"].append({**shot.venue["orders"][0], "client_order_id": "somebody-else"})


def venue_balance_changed(shot: Snapshot) -> None:
    """A cent is missing at the venue."""
    row = _first(shot.venue["balances"], asset="USD")
    row["free"] = format_decimal(Decimal(row["free"]) - Decimal("0.01"))


def table_saga_lost(shot: Snapshot) -> None:
    """A saga's row is gone."""
    shot.tables["saga"].pop()


def table_state_changed(shot: Snapshot) -> None:
    """A saga that was taken back claims to be completed."""
    _first(shot.tables["saga"], state="ABORTED")["state"] = "COMPLETED"


def table_saga_hangs(shot: Snapshot) -> None:
    """A saga has not ended."""
    _first(shot.tables["saga"], state="COMPLETED")["state"] = "RUNNING"


def table_entry_changed(shot: Snapshot) -> None:
    """Somebody's entry is a cent too high."""
    entry = shot.tables["ledger_entry"][0]
    entry["amount"] = format_decimal(Decimal(entry["amount"]) + Decimal("0.01"))


def table_hold_left(shot: Snapshot) -> None:
    """A hold was not given back."""
    account = _first(shot.tables["ledger_account"], kind="held", asset="USD")
    account["balance"] = "5"


def table_audit_row_altered(shot: Snapshot) -> None:
    """The audit log holds other bytes than the topic."""
    shot.tables["saga_event"][0]["digest"] = "0" * 64


def table_outbox_unpublished(shot: Snapshot) -> None:
    """A row of the outbox never reached its topic."""
    shot.tables["outbox"].append({"id": "00000000-0000-0000-0000-000000000000", "type": "trade.step-failed.v1"})


def sample_off(shot: Snapshot) -> None:
    """In one moment of the run a cent was nowhere."""
    shot.run.samples.append({"USD": "0.01"})


def topic_record_lost(shot: Snapshot) -> None:
    """A settlement is missing on the topic."""
    lost = next(said for said in shot.records if said.type == "trade.trade-settled.v1")
    shot.records.remove(lost)


def topic_amount_flipped(shot: Snapshot) -> None:
    """A fill on the topic has another amount."""
    _rewrite(shot, wire_type(trade.name, TradeFilled), '"quantity":"', '"quantity":"1')


def topic_compensations_swapped(shot: Snapshot) -> None:
    """Two compensations are told in the other order."""
    undone = ("trade.funds-released.v1", "trade.order-withdrawn.v1")
    for saga_id, story in shot.stories.items():
        told = [said for said in story if said.type in undone]
        if {said.type for said in told} == set(undone):
            first, last = told[0], told[-1]
            places = {shot.records.index(first): last, shot.records.index(last): first}
            for index, other in places.items():
                here = shot.records[index]
                shot.records[index] = Said(here.topic, here.partition, here.offset, other.headers, other.value)
            return
        del saga_id
    raise LookupError("no saga was taken back by two steps")


def topic_start_added(shot: Snapshot) -> None:
    """A start is on the topic that nobody accepted."""
    start = next(said for said in shot.records if said.type == "trade.trade-requested.v1")
    stranger = {**start.headers, "ce_correlationid": "00000000-0000-5000-8000-000000000000", "ce_id": "0"}
    shot.records.append(start._replace(headers=stranger, offset=10**9))


def audit_row_unsealed(shot: Snapshot) -> None:
    """A record came into the audit log that nobody has sealed."""
    shot.run.audit["not_yet_sealed"] += 1


def audit_altered(shot: Snapshot) -> None:
    """The verdict on the audit log is that somebody has altered it."""
    shot.run.audit["unaltered"] = False


CORRUPTIONS: tuple[Corruption, ...] = (
    venue_fill_changed, venue_fee_changed, venue_order_doubled, venue_order_foreign, venue_balance_changed,
    table_saga_lost, table_state_changed, table_saga_hangs, table_entry_changed, table_hold_left,
    table_audit_row_altered, table_outbox_unpublished, sample_off,
    topic_record_lost, topic_amount_flipped, topic_compensations_swapped, topic_start_added,
    audit_row_unsealed, audit_altered,
)  # fmt: skip


def corrupted(shot: Snapshot) -> Iterator[tuple[Corruption, Snapshot]]:
    """Return the snapshot once with each corruption."""
    for corrupt in CORRUPTIONS:
        copy = Snapshot(deepcopy(shot.venue), deepcopy(shot.tables), list(shot.records), deepcopy(shot.run))
        corrupt(copy)
        # What was looked up while corrupting must not be remembered.
        yield corrupt, Snapshot(copy.venue, copy.tables, copy.records, copy.run)


def noticed(shot: Snapshot) -> list[str]:
    """Return the names of the checks that fail."""
    return [name for name, findings in run_checks(shot).items() if findings]


def _rewrite(shot: Snapshot, kind: str, old: str, new: str) -> None:
    index = next(index for index, said in enumerate(shot.records) if said.type == kind)
    said = shot.records[index]
    shot.records[index] = said._replace(value=said.value.replace(old, new, 1))
