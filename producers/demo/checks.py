"""The demo's checks. Each reads the sources and returns a sentence for each violation.

No check relies on counters, or on one source for another: the venue's trades are compared with the sagas' facts, the
ledger with the venue's trades, and the database's rows with the folded topics.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

from tradesaga.producers.demo.snapshot import Rows, Snapshot, net_amounts
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.machine import Machine
from tradesaga.sagas.trade.definition import trade
from tradesaga.sagas.trade.orders import client_order_id, saga_of
from tradesaga.schemas.amounts import format_decimal
from tradesaga.schemas.messages.trade import hash_trade_ids

Check = Callable[[Snapshot], list[str]]
SHOWN = 5
LEAST_OF_EACH = 10
LEAST_FAILING = 0.10
REASONS = {
    "no funds": "funds-rejected",
    "limit breached": "risk-rejected",
    "venue reject": "order-rejected",
    "lost answer": "step-unknown",
    "expiry": "trade-unfilled",
}


def one_saga_a_start(snapshot: Snapshot) -> list[str]:
    """Each accepted request is exactly one saga, in the database and on the topic."""
    accepted = [row["saga_id"] for row in snapshot.tables["start_request"]]
    sagas = [row["saga_id"] for row in snapshot.tables["saga"]]
    return [
        *_differ("sagas of no accepted start", sagas, accepted),
        *_differ("accepted starts without a saga", accepted, sagas),
        *_differ("accepted starts that are not on the topic", accepted, snapshot.starts),
        *_differ("starts on the topic that were not accepted", snapshot.starts, accepted),
    ]


def starts_follow_decisions(snapshot: Snapshot) -> list[str]:
    """The signal router's decisions and the starts are the same trades."""
    decided = [row["saga_id"] for row in snapshot.tables["signal_decision"] if row["decision"] == "accepted"]
    accepted = [row["saga_id"] for row in snapshot.tables["start_request"]]
    return [
        *_differ("signals accepted but not started", decided, accepted),
        *_differ("starts without an accepted signal", accepted, decided),
    ]


def all_ended(snapshot: Snapshot) -> list[str]:
    """Each saga is COMPLETED or ABORTED: none is running, none has failed."""
    return [
        f"saga {row['saga_id']} is {row['state']}"
        for row in snapshot.tables["saga"]
        if row["state"] not in {"COMPLETED", "ABORTED"}
    ]


def fills_agree(snapshot: Snapshot) -> list[str]:
    """The fill of a completed saga is exactly that of the venue's ledger."""
    findings: list[str] = []
    for saga_id in _in_state(snapshot, "COMPLETED"):
        payload, fills = snapshot.payload_of(saga_id, "trade-filled"), _fills(snapshot, saga_id)
        if payload is None or payload != {**payload, **_summed(fills)}:
            findings.append(f"saga {saga_id} has {payload}, the venue {_summed(fills)}")
    return findings


def aborted_left_nothing(snapshot: Snapshot) -> list[str]:
    """An aborted saga has no fill and no open order, and each step that was done is compensated."""
    resting = [order for order in snapshot.venue["orders"] if order["status"] in {"NEW", "PARTIALLY_FILLED"}]
    open_orders = {order["client_order_id"] for order in resting}
    findings: list[str] = []
    for saga_id in _in_state(snapshot, "ABORTED"):
        if fills := _fills(snapshot, saga_id):
            findings.append(f"saga {saga_id} is aborted, yet the venue filled {len(fills)} times")
        if _order_id(saga_id) in open_orders:
            findings.append(f"saga {saga_id} is aborted, yet its order rests at the venue")
        meanings = [(fact.meaning, fact.step) for fact in snapshot.facts.get(saga_id, ())]
        standing = {step for meaning, step in meanings if meaning is Meaning.DONE}
        standing -= {step for meaning, step in meanings if meaning is Meaning.COMPENSATED}
        if standing:
            findings.append(f"saga {saga_id} is aborted, yet steps {sorted(standing)} are not compensated")
    return findings


def one_order_a_saga(snapshot: Snapshot) -> list[str]:
    """The venue has at most one order for each saga and no other orders, and each fill belongs to an order."""
    taken = Counter(order["client_order_id"] for order in snapshot.venue["orders"])
    sagas = {row["saga_id"] for row in snapshot.tables["saga"]}
    findings = [f"the venue has {count} orders {order_id}" for order_id, count in taken.items() if count > 1]
    for order_id in taken:
        saga_id = saga_of(order_id)
        if saga_id is None or str(saga_id) not in sagas:
            findings.append(f"order {order_id} at the venue belongs to no saga")
    findings += [f"the venue has trades of {order_id}" for order_id in snapshot.trades if order_id not in taken]
    return findings


def ledger_is_closed(snapshot: Snapshot) -> list[str]:
    """The ledger sums to zero per asset, now and in each sample; balances are the sums of entries."""
    accounts, entries = snapshot.tables["ledger_account"], snapshot.tables["ledger_entry"]
    sums = _totals(accounts, "balance", "asset")
    findings = [f"the ledger's {asset} sum to {total}" for asset, total in sums.items() if total]
    for number, sample in enumerate(snapshot.run.samples):
        findings += [f"in sample {number} {asset} sum to {total}" for asset, total in sample.items() if Decimal(total)]
    booked = _totals(entries, "amount", "owner", "asset", "kind")
    held = _totals(accounts, "balance", "owner", "asset", "kind")
    findings += [
        f"{account} has {total}, its entries sum to {booked[account]}"
        for account, total in held.items()
        if total != booked[account]
    ]
    if not snapshot.run.samples:
        findings.append("the ledger was not sampled during the run")
    return findings


def nothing_is_held(snapshot: Snapshot) -> list[str]:
    """No hold, exposure or open order is left when all sagas have ended."""
    held = [row for row in snapshot.tables["ledger_account"] if row["kind"] == "held" and Decimal(row["balance"])]
    exposed = [row for row in snapshot.tables["risk_exposure"] if Decimal(row["exposure"]) or row["open_orders"]]
    return [f"{row['owner']} still holds {row['balance']} {row['asset']}" for row in held] + [
        f"{row['account']} still has an exposure of {row['exposure']} {row['asset']} in {row['open_orders']} orders"
        for row in exposed
    ]


def accounts_to_the_cent(snapshot: Snapshot) -> list[str]:
    """Each account has its deposits plus the net amounts of its trades in the venue's ledger."""
    expected = defaultdict[tuple[str, str], Decimal](Decimal)
    for account, held in snapshot.run.opening.items():
        for asset, amount in held.items():
            expected[account, asset] = Decimal(amount)
    for saga_id, request in snapshot.starts.items():
        for asset, amount in net_amounts(request, _fills(snapshot, saga_id)).items():
            expected[request.account, asset] += amount
    rows = [row for row in snapshot.tables["ledger_account"] if row["kind"] == "available"]
    found = _totals(rows, "balance", "owner", "asset")
    return [
        f"{account} has {found[account, asset]} {asset}, should have {amount}"
        for (account, asset), amount in expected.items()
        if found[account, asset] != amount
    ]


def venue_agrees_with_clearing(snapshot: Snapshot) -> list[str]:
    """The venue's holdings for us are exactly the negative of our clearing and fee accounts with it."""
    holdings = snapshot.venue["balances"]
    now = {row["asset"]: Decimal(0) for row in holdings}
    for row in holdings:
        now[row["asset"]] += Decimal(row["free"]) + Decimal(row["locked"])
    own = [row for row in snapshot.tables["ledger_account"] if row["kind"] in {"clearing", "fees"}]
    ours = _totals(own, "balance", "asset")
    return [
        f"the venue holds {now.get(asset, 0)} {asset}, our accounts with it have {-ours[asset]}"
        for asset in sorted({*now, *ours})
        if now.get(asset, Decimal(0)) != -ours[asset]
    ]


def taken_back_last_first(snapshot: Snapshot) -> list[str]:
    """Compensations ran in reverse order of the steps."""
    findings: list[str] = []
    for saga_id, facts in snapshot.facts.items():
        undone = list(dict.fromkeys(fact.step for fact in facts if fact.meaning is Meaning.COMPENSATED))
        if undone != sorted(undone, reverse=True):
            findings.append(f"saga {saga_id} was compensated in the order {undone}")
    return findings


def topics_fold_to_the_table(snapshot: Snapshot) -> list[str]:
    """Folding the topic from its first record gives each saga the state and steps of its row."""
    machine = Machine(trade)
    rows = {row["saga_id"]: row for row in snapshot.tables["saga"]}
    findings: list[str] = []
    for saga_id, facts in snapshot.facts.items():
        state = machine.begin()
        for fact in facts:
            state = machine.fold(state, fact).state
        row = rows.get(saga_id)
        folded = [str(machine.status(state)), machine.names(state.done), machine.names(state.compensated)]
        if row is None or folded != [row["state"], row["completed_steps"], row["compensated_steps"]]:
            findings.append(f"saga {saga_id} folds to {folded}, its row has {row and row['state']}")
    return findings


def audit_log_is_the_topic(snapshot: Snapshot) -> list[str]:
    """The audit log has one row for each record of the events topic, with the same bytes."""
    logged = {(r["topic"], r["partition"], r["offset"]): r["digest"] for r in snapshot.tables["saga_event"]}
    there = {(record.topic, record.partition, record.offset): record.digest for record in snapshot.events}
    return [
        *_differ("records that the audit log lacks", there, logged),
        *_differ("audit rows of no record", logged, there),
        *[f"{place} was altered" for place, digest in there.items() if logged.get(place, digest) != digest],
    ]


def audit_log_is_sealed(snapshot: Snapshot) -> list[str]:
    """`tradesaga audit verify` finds the log unaltered and complete, and all records are sealed."""
    audit = snapshot.run.audit
    findings = [f"{each['where']}: {each['what']}" for each in audit["findings"]]
    if not (audit["unaltered"] and audit["complete"]):
        findings.append(f"unaltered: {audit['unaltered']}, complete: {audit['complete']}")
    if audit["not_yet_sealed"]:
        findings.append(f"{audit['not_yet_sealed']} records are not sealed")
    if audit["rows"] != len(snapshot.tables["saga_event"]):
        findings.append(f"{audit['rows']} rows were verified of {len(snapshot.tables['saga_event'])}")
    return findings


def outbox_is_published(snapshot: Snapshot) -> list[str]:
    """Each row of the outbox is on its topic, and each record has a row."""
    published = {record.headers.get("ce_id", "") for record in snapshot.records}
    rows = {row["id"] for row in snapshot.tables["outbox"]}
    return [
        *_differ("outbox rows that are on no topic", rows, published),
        *_differ("records without an outbox row", published, rows),
    ]


def enough_happened(snapshot: Snapshot) -> list[str]:
    """Enough sagas ran, enough of them failed, and each reason occurred often enough."""
    ended = len(snapshot.tables["saga"])
    failing = len(_in_state(snapshot, "ABORTED"))
    findings = [f"{ended} sagas ran, at least {snapshot.run.wanted} should have"] if ended < snapshot.run.wanted else []
    if failing < LEAST_FAILING * ended:
        findings.append(f"{failing} of {ended} sagas failed, fewer than one in ten")
    counts = reasons(snapshot)
    findings += [f"{name} occurred {count} times" for name, count in counts.items() if count < LEAST_OF_EACH]
    return findings


def reasons(snapshot: Snapshot) -> dict[str, int]:
    """Count the aborted sagas by the reason in their facts."""
    counts = dict.fromkeys(REASONS, 0)
    for saga_id in _in_state(snapshot, "ABORTED"):
        names = {record.type.split(".")[-2] for record in snapshot.events_by_saga.get(saga_id, ())}
        reason = next((reason for reason, name in REASONS.items() if name in names), None)
        if reason is not None:
            counts[reason] += 1
    return counts


CHECKS: tuple[Check, ...] = (
    one_saga_a_start, starts_follow_decisions, all_ended, fills_agree, aborted_left_nothing, one_order_a_saga,
    ledger_is_closed, nothing_is_held, accounts_to_the_cent, venue_agrees_with_clearing, taken_back_last_first,
    topics_fold_to_the_table, audit_log_is_the_topic, audit_log_is_sealed, outbox_is_published, enough_happened,
)  # fmt: skip


def run_checks(snapshot: Snapshot) -> dict[str, list[str]]:
    """Run all checks; return the findings by check. A source that cannot be read is a finding."""
    results: dict[str, list[str]] = {}
    for check in CHECKS:
        try:
            results[check.__name__] = check(snapshot)
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            results[check.__name__] = [f"the sources cannot be read: {type(error).__name__}: {error}"]
    return results


def _order_id(saga_id: str) -> str:
    return client_order_id(UUID(saga_id))


def _fills(snapshot: Snapshot, saga_id: str) -> Rows:
    return snapshot.trades.get(_order_id(saga_id), [])


def _in_state(snapshot: Snapshot, state: str) -> list[str]:
    return [row["saga_id"] for row in snapshot.tables["saga"] if row["state"] == state]


def _summed(fills: Rows) -> dict[str, Any]:
    quantity = amount = fee = Decimal(0)
    for fill in fills:
        quantity += Decimal(fill["quantity"])
        amount += Decimal(fill["quantity"]) * Decimal(fill["price"])
        fee += Decimal(fill["fee"])
    return {
        "quantity": format_decimal(quantity),
        "quote_amount": format_decimal(amount),
        "fee": format_decimal(fee),
        "executions": len(fills),
        "executions_hash": hash_trade_ids(str(fill["id"]) for fill in fills),
    }


def _totals(rows: Iterable[dict[str, Any]], column: str, *by: str) -> defaultdict[Any, Decimal]:
    totals = defaultdict[Any, Decimal](Decimal)
    for row in rows:
        key = row[by[0]] if len(by) == 1 else tuple(row[name] for name in by)
        totals[key] += Decimal(row[column])
    return totals


def _differ(what: str, these: Iterable[Any], those: Iterable[Any]) -> list[str]:
    missing = sorted(map(str, set(these) - set(those)))
    return [f"{len(missing)} {what}: {', '.join(missing[:SHOWN])}"] if missing else []
