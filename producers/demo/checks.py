"""The demo's checks: each looks at the sources themselves and says, a sentence each, what does not hold.

None trusts a counter, and none trusts one source about another: what the venue did is compared with what the sagas say
of it, what the ledger says with what the venue did, and the database's rows with the topics folded again.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

from tradesaga.producers.demo.snapshot import Rows, Snapshot, moved
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


def one_saga_a_start(shot: Snapshot) -> list[str]:
    """Every request taken in is exactly one saga, in the database and on the topic."""
    accepted = [row["saga_id"] for row in shot.tables["start_request"]]
    sagas = [row["saga_id"] for row in shot.tables["saga"]]
    return [
        *_differ("sagas of no accepted start", sagas, accepted),
        *_differ("accepted starts without a saga", accepted, sagas),
        *_differ("accepted starts that are not on the topic", accepted, shot.starts),
        *_differ("starts on the topic that nobody accepted", shot.starts, accepted),
    ]


def starts_follow_decisions(shot: Snapshot) -> list[str]:
    """The signal router's decisions and the starts are the same trades."""
    decided = [row["saga_id"] for row in shot.tables["signal_decision"] if row["decision"] == "accepted"]
    accepted = [row["saga_id"] for row in shot.tables["start_request"]]
    return [
        *_differ("signals accepted but not started", decided, accepted),
        *_differ("starts that no signal asked for", accepted, decided),
    ]


def all_ended(shot: Snapshot) -> list[str]:
    """Every saga is COMPLETED or ABORTED: none hangs, none needs a person."""
    return [
        f"saga {row['saga_id']} is {row['state']}"
        for row in shot.tables["saga"]
        if row["state"] not in {"COMPLETED", "ABORTED"}
    ]


def fills_agree(shot: Snapshot) -> list[str]:
    """A completed saga says of its fill exactly what the venue's ledger says."""
    findings: list[str] = []
    for saga_id in _in_state(shot, "COMPLETED"):
        told, fills = shot.told(saga_id, "trade-filled"), _fills(shot, saga_id)
        if told is None or told != {**told, **_summed(fills)}:
            findings.append(f"saga {saga_id} says {told}, the venue {_summed(fills)}")
    return findings


def aborted_left_nothing(shot: Snapshot) -> list[str]:
    """An aborted saga has no fill and no open order, and each of its steps that was done is taken back."""
    resting = [order for order in shot.venue["orders"] if order["status"] in {"NEW", "PARTIALLY_FILLED"}]
    open_orders = {order["client_order_id"] for order in resting}
    findings: list[str] = []
    for saga_id in _in_state(shot, "ABORTED"):
        if fills := _fills(shot, saga_id):
            findings.append(f"saga {saga_id} is aborted, yet the venue filled {len(fills)} times")
        if _order_id(saga_id) in open_orders:
            findings.append(f"saga {saga_id} is aborted, yet its order rests at the venue")
        meanings = [(fact.meaning, fact.step) for fact in shot.facts.get(saga_id, ())]
        standing = {step for meaning, step in meanings if meaning is Meaning.DONE}
        standing -= {step for meaning, step in meanings if meaning is Meaning.COMPENSATED}
        if standing:
            findings.append(f"saga {saga_id} is aborted, yet steps {sorted(standing)} stand")
    return findings


def one_order_a_saga(shot: Snapshot) -> list[str]:
    """The venue has at most one order of a saga, none of anything else, and each fill belongs to an order."""
    taken = Counter(order["client_order_id"] for order in shot.venue["orders"])
    sagas = {row["saga_id"] for row in shot.tables["saga"]}
    findings = [f"the venue has {count} orders {order_id}" for order_id, count in taken.items() if count > 1]
    for order_id in taken:
        saga_id = saga_of(order_id)
        if saga_id is None or str(saga_id) not in sagas:
            findings.append(f"order {order_id} at the venue is no saga's")
    findings += [f"the venue has trades of {order_id}" for order_id in shot.trades if order_id not in taken]
    return findings


def ledger_is_closed(shot: Snapshot) -> list[str]:
    """The ledger sums to zero per asset, now and in each snapshot taken meanwhile; balances are the sums of entries."""
    accounts, entries = shot.tables["ledger_account"], shot.tables["ledger_entry"]
    sums = _totals(accounts, ("asset",), "balance")
    findings = [f"the ledger's {asset} sum to {total}" for asset, total in sums.items() if total]
    for number, sample in enumerate(shot.run.samples):
        findings += [
            f"in snapshot {number} {asset} sum to {total}" for asset, total in sample.items() if Decimal(total)
        ]
    booked = _totals(entries, ("owner", "asset", "kind"), "amount")
    held = _totals(accounts, ("owner", "asset", "kind"), "balance")
    findings += [
        f"{place} holds {total}, its entries say {booked.get(place, 0)}"
        for place, total in held.items()
        if total != booked.get(place, 0)
    ]
    if not shot.run.samples:
        findings.append("no snapshot was taken while it ran")
    return findings


def nothing_is_held(shot: Snapshot) -> list[str]:
    """No hold, no exposure and no open order is left when all sagas have ended."""
    held = [row for row in shot.tables["ledger_account"] if row["kind"] == "held" and Decimal(row["balance"])]
    exposed = [row for row in shot.tables["risk_exposure"] if Decimal(row["exposure"]) or row["open_orders"]]
    return [f"{row['owner']} still holds {row['balance']} {row['asset']}" for row in held] + [
        f"{row['account']} is still exposed by {row['exposure']} {row['asset']} in {row['open_orders']} orders"
        for row in exposed
    ]


def accounts_to_the_cent(shot: Snapshot) -> list[str]:
    """Each account has what was paid in, plus and minus what the venue's own ledger says was traded for it."""
    expected: dict[tuple[str, str], Decimal] = {
        (account, asset): Decimal(amount)
        for account, held in shot.run.opening.items()
        for asset, amount in held.items()
    }
    for saga_id, request in shot.starts.items():
        for asset, amount in moved(request, _fills(shot, saga_id)).items():
            place = (request.account, asset)
            expected[place] = expected.get(place, Decimal(0)) + amount
    rows = [row for row in shot.tables["ledger_account"] if row["kind"] == "available"]
    found = {(row["owner"], row["asset"]): Decimal(row["balance"]) for row in rows}
    return [
        f"{account} has {found.get((account, asset), Decimal(0))} {asset}, should have {amount}"
        for (account, asset), amount in expected.items()
        if found.get((account, asset), Decimal(0)) != amount
    ]


def venue_agrees_with_clearing(shot: Snapshot) -> list[str]:
    """What the venue holds for us is exactly the opposite of our clearing and fee accounts with it."""
    holdings = [{**row, "total": _plus(row["free"], row["locked"])} for row in shot.venue["balances"]]
    now = _totals(holdings, ("asset",), "total")
    own = [row for row in shot.tables["ledger_account"] if row["kind"] in {"clearing", "fees"}]
    ours = _totals(own, ("asset",), "balance")
    return [
        f"the venue holds {now.get(asset, 0)} {asset}, our accounts with it say {-ours.get(asset, Decimal(0))}"
        for asset in sorted({*now, *ours})
        if now.get(asset, Decimal(0)) != -ours.get(asset, Decimal(0))
    ]


def taken_back_last_first(shot: Snapshot) -> list[str]:
    """Compensations were done last step first."""
    findings: list[str] = []
    for saga_id, facts in shot.facts.items():
        undone = list(dict.fromkeys(fact.step for fact in facts if fact.meaning is Meaning.COMPENSATED))
        if undone != sorted(undone, reverse=True):
            findings.append(f"saga {saga_id} was taken back in the order {undone}")
    return findings


def topics_fold_to_the_table(shot: Snapshot) -> list[str]:
    """The topic, folded again from its first record, gives each saga the state and steps that its row has."""
    machine = Machine(trade)
    rows = {row["saga_id"]: row for row in shot.tables["saga"]}
    findings: list[str] = []
    for saga_id, facts in shot.facts.items():
        state = machine.begin()
        for fact in facts:
            state = machine.fold(state, fact).state
        row = rows.get(saga_id)
        folded = [str(machine.status(state)), machine.names(state.done), machine.names(state.compensated)]
        if row is None or folded != [row["state"], row["completed_steps"], row["compensated_steps"]]:
            findings.append(f"saga {saga_id} folds to {folded}, its row says {row and row['state']}")
    return findings


def audit_log_is_the_topic(shot: Snapshot) -> list[str]:
    """The audit log has one row for each record of the events topic, with the same bytes."""
    logged = {(r["topic"], r["partition"], r["offset"]): r["digest"] for r in shot.tables["saga_event"]}
    there = {(said.topic, said.partition, said.offset): said.digest for said in shot.events}
    return [
        *_differ("records that the audit log lacks", there, logged),
        *_differ("audit rows of no record", logged, there),
        *[f"{place} was altered" for place, digest in there.items() if logged.get(place, digest) != digest],
    ]


def audit_log_is_sealed(shot: Snapshot) -> list[str]:
    """`tradesaga audit verify` finds the log unaltered and complete, and every record of it is sealed."""
    audit = shot.run.audit
    findings = [f"{each['where']}: {each['what']}" for each in audit["findings"]]
    if not (audit["unaltered"] and audit["complete"]):
        findings.append(f"unaltered: {audit['unaltered']}, complete: {audit['complete']}")
    if audit["not_yet_sealed"]:
        findings.append(f"{audit['not_yet_sealed']} records are not sealed")
    if audit["rows"] != len(shot.tables["saga_event"]):
        findings.append(f"{audit['rows']} rows were verified, {len(shot.tables['saga_event'])} are there")
    return findings


def outbox_is_published(shot: Snapshot) -> list[str]:
    """Every row of the outbox is on its topic, and no service's record is there without one."""
    published = {said.headers.get("ce_id", "") for said in shot.records}
    rows = {row["id"] for row in shot.tables["outbox"]}
    return [
        *_differ("outbox rows that are on no topic", rows, published),
        *_differ("records without an outbox row", published, rows),
    ]


def enough_happened(shot: Snapshot) -> list[str]:
    """Enough sagas ran, enough of them failed, and each reason occurred often enough to mean something."""
    ended = len(shot.tables["saga"])
    failing = len(_in_state(shot, "ABORTED"))
    findings = [f"{ended} sagas ran, {shot.run.wanted} were wanted"] if ended < shot.run.wanted else []
    if failing < LEAST_FAILING * ended:
        findings.append(f"{failing} of {ended} sagas failed, fewer than one in ten")
    counts = reasons(shot)
    findings += [f"{name} occurred {count} times" for name, count in counts.items() if count < LEAST_OF_EACH]
    return findings


def reasons(shot: Snapshot) -> dict[str, int]:
    """Count the aborted sagas by why they were taken back, from the facts."""
    counts = dict.fromkeys(REASONS, 0)
    for saga_id in _in_state(shot, "ABORTED"):
        names = {said.type.split(".")[-2] for said in shot.stories.get(saga_id, ())}
        for reason, name in REASONS.items():
            if name in names:
                counts[reason] += 1
                break
    return counts


CHECKS: tuple[Check, ...] = (
    one_saga_a_start, starts_follow_decisions, all_ended, fills_agree, aborted_left_nothing, one_order_a_saga,
    ledger_is_closed, nothing_is_held, accounts_to_the_cent, venue_agrees_with_clearing, taken_back_last_first,
    topics_fold_to_the_table, audit_log_is_the_topic, audit_log_is_sealed, outbox_is_published, enough_happened,
)  # fmt: skip


def run_checks(shot: Snapshot) -> dict[str, list[str]]:
    """Run all checks; give the findings of each by its name. A source that cannot even be read is a finding."""
    results: dict[str, list[str]] = {}
    for check in CHECKS:
        try:
            results[check.__name__] = check(shot)
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            results[check.__name__] = [f"the sources cannot be read: {type(error).__name__}: {error}"]
    return results


def _order_id(saga_id: str) -> str:
    return client_order_id(UUID(saga_id))


def _fills(shot: Snapshot, saga_id: str) -> Rows:
    return shot.trades.get(_order_id(saga_id), [])


def _in_state(shot: Snapshot, state: str) -> list[str]:
    return [row["saga_id"] for row in shot.tables["saga"] if row["state"] == state]


def _summed(fills: Rows) -> dict[str, Any]:
    quantity = sum((Decimal(fill["quantity"]) for fill in fills), Decimal(0))
    amount = sum((Decimal(fill["quantity"]) * Decimal(fill["price"]) for fill in fills), Decimal(0))
    fee = sum((Decimal(fill["fee"]) for fill in fills), Decimal(0))
    return {
        "quantity": format_decimal(quantity),
        "quote_amount": format_decimal(amount),
        "fee": format_decimal(fee),
        "executions": len(fills),
        "executions_hash": hash_trade_ids(str(fill["id"]) for fill in fills),
    }


def _totals(rows: Iterable[dict[str, Any]], by: tuple[str, ...], column: str) -> dict[Any, Decimal]:
    totals: dict[Any, Decimal] = {}
    for row in rows:
        place = row[by[0]] if len(by) == 1 else tuple(row[name] for name in by)
        totals[place] = totals.get(place, Decimal(0)) + Decimal(row[column])
    return totals


def _plus(free: str, locked: str) -> str:
    return str(Decimal(free) + Decimal(locked))


def _differ(what: str, these: Iterable[Any], those: Iterable[Any]) -> list[str]:
    missing = sorted(map(str, set(these) - set(those)))
    return [f"{len(missing)} {what}: {', '.join(missing[:SHOWN])}"] if missing else []
