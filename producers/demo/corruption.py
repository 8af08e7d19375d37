"""Corruptions of a snapshot, each of which a check must detect."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from decimal import Decimal
from typing import Any

from tradesaga.producers.demo.checks import run_checks
from tradesaga.producers.demo.snapshot import Rows, Snapshot
from tradesaga.sagas.trade.definition import trade
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.message import wire_type
from tradesaga.schemas.messages.trade import TradeFilled

Corruption = Callable[[Snapshot], None]


def _first(rows: Rows, **wanted: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def _add(row: dict[str, Any], column: str, amount: str) -> None:
    row[column] = format_decimal(Decimal(row[column]) + Decimal(amount))


def venue_fill_changed(snapshot: Snapshot) -> None:
    """The venue's ledger has a fill of one unit more."""
    _add(snapshot.venue["trades"][0], "quantity", "1")


def venue_fee_changed(snapshot: Snapshot) -> None:
    """The venue's ledger has a fee of one cent more."""
    _add(snapshot.venue["trades"][0], "fee", "0.01")


def venue_order_doubled(snapshot: Snapshot) -> None:
    """The venue has the same order twice."""
    snapshot.venue["orders"].append(dict(snapshot.venue["orders"][0]))


def venue_order_foreign(snapshot: Snapshot) -> None:
    """The venue has an order that no saga placed."""
    snapshot.venue["orders"].append({**snapshot.venue["orders"][0], "client_order_id": "somebody-else"})


def venue_balance_changed(snapshot: Snapshot) -> None:
    """A cent is missing at the venue."""
    _add(_first(snapshot.venue["balances"], asset="USD"), "free", "-0.01")


def table_saga_lost(snapshot: Snapshot) -> None:
    """A saga's row is gone."""
    snapshot.tables["saga"].pop()


def table_state_changed(snapshot: Snapshot) -> None:
    """A saga that was rolled back has the state COMPLETED."""
    _first(snapshot.tables["saga"], state="ABORTED")["state"] = "COMPLETED"


def table_saga_hangs(snapshot: Snapshot) -> None:
    """A saga has not ended."""
    _first(snapshot.tables["saga"], state="COMPLETED")["state"] = "RUNNING"


def table_entry_changed(snapshot: Snapshot) -> None:
    """An entry is a cent too high."""
    _add(snapshot.tables["ledger_entry"][0], "amount", "0.01")


def table_hold_left(snapshot: Snapshot) -> None:
    """A hold was not released."""
    _first(snapshot.tables["ledger_account"], kind="held", asset="USD")["balance"] = "5"


def table_audit_row_altered(snapshot: Snapshot) -> None:
    """The audit log has other bytes than the topic."""
    snapshot.tables["saga_event"][0]["digest"] = "0" * 64


def table_outbox_unpublished(snapshot: Snapshot) -> None:
    """A row of the outbox is not on its topic."""
    snapshot.tables["outbox"].append({"id": "00000000-0000-0000-0000-000000000000", "type": "trade.step-failed.v1"})


def sample_off(snapshot: Snapshot) -> None:
    """In one sample of the ledger a cent is missing."""
    snapshot.run.samples.append({"USD": "0.01"})


def topic_record_lost(snapshot: Snapshot) -> None:
    """A settlement is missing on the topic."""
    lost = next(record for record in snapshot.records if record.type == "trade.trade-settled.v1")
    snapshot.records.remove(lost)


def topic_amount_flipped(snapshot: Snapshot) -> None:
    """A fill on the topic has another amount."""
    kind, records = wire_type(trade.name, TradeFilled), snapshot.records
    index = next(index for index, record in enumerate(records) if record.type == kind)
    value = records[index].value.replace('"quantity":"', '"quantity":"1', 1)
    records[index] = records[index]._replace(value=value)


def topic_compensations_swapped(snapshot: Snapshot) -> None:
    """Two compensations are in the other order."""
    types = {"trade.funds-released.v1", "trade.order-withdrawn.v1"}
    for events in snapshot.events_by_saga.values():
        compensations = [record for record in events if record.type in types]
        if {record.type for record in compensations} == types:
            first, last = compensations[0], compensations[-1]
            places = {snapshot.records.index(first): last, snapshot.records.index(last): first}
            for index, other in places.items():
                here = snapshot.records[index]
                snapshot.records[index] = here._replace(headers=other.headers, value=other.value)
            return
    raise LookupError("no saga was rolled back by two steps")


def topic_start_added(snapshot: Snapshot) -> None:
    """A start is on the topic that was not accepted."""
    start = next(record for record in snapshot.records if record.type == "trade.trade-requested.v1")
    stranger = {**start.headers, "ce_correlationid": "00000000-0000-5000-8000-000000000000", "ce_id": "0"}
    snapshot.records.append(start._replace(headers=stranger, offset=10**9))


def audit_row_unsealed(snapshot: Snapshot) -> None:
    """A record of the audit log is not sealed."""
    snapshot.run.audit["not_yet_sealed"] += 1


def audit_altered(snapshot: Snapshot) -> None:
    """The audit log has been altered, by its verification."""
    snapshot.run.audit["unaltered"] = False


CORRUPTIONS: tuple[Corruption, ...] = (
    venue_fill_changed, venue_fee_changed, venue_order_doubled, venue_order_foreign, venue_balance_changed,
    table_saga_lost, table_state_changed, table_saga_hangs, table_entry_changed, table_hold_left,
    table_audit_row_altered, table_outbox_unpublished, sample_off,
    topic_record_lost, topic_amount_flipped, topic_compensations_swapped, topic_start_added,
    audit_row_unsealed, audit_altered,
)  # fmt: skip


def corrupted(snapshot: Snapshot) -> Iterator[tuple[Corruption, Snapshot]]:
    """Yield each corruption with a corrupted copy of the snapshot."""
    for corrupt in CORRUPTIONS:
        copy = Snapshot(
            deepcopy(snapshot.venue), deepcopy(snapshot.tables), list(snapshot.records), deepcopy(snapshot.run)
        )
        corrupt(copy)
        # A new snapshot, since the copy has cached what the corruption looked up.
        yield corrupt, Snapshot(copy.venue, copy.tables, copy.records, copy.run)


def failing_checks(snapshot: Snapshot) -> list[str]:
    """Return the names of the checks that fail."""
    return [name for name, findings in run_checks(snapshot).items() if findings]
