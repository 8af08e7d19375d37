"""The test of the test: each kind of lie is put into the evidence, and the invariant that should notice it is asked."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from math import nan
from typing import Any, Final

from tests.faults.evidence import COMMANDS, DEAD, EVENTS, Evidence
from tests.faults.invariants import CHECKS
from tests.faults.market import order_key
from tradesaga.infra.kafka.codec import Record

Change = Callable[[Evidence], None]
_BY_NAME: Final = {name: check for name, _, check in CHECKS}


@dataclass(frozen=True, slots=True)
class Lie:
    """One corruption, and which invariant must notice it."""

    name: str
    noticed_by: str
    change: Change


def notice_all(seen: Evidence, tell: Callable[[str], None]) -> list[str]:
    """Try every lie on a copy of the evidence; give the names of those that nobody noticed."""
    unnoticed: list[str] = []
    for lie in LIES:
        copied = _copy(seen)
        lie.change(copied)
        _, findings = _BY_NAME[lie.noticed_by](copied)
        first = next(iter(findings), None)
        if first is None:
            unnoticed.append(lie.name)
        tell(f"{lie.noticed_by:4} {lie.name}: {first or 'NOT NOTICED'}")
    return unnoticed


def _copy(seen: Evidence) -> Evidence:
    """Copy what lies change; records are values and stay the same objects."""
    return replace(
        seen,
        history=deepcopy(seen.history),
        tables={name: [dict(row) for row in rows] for name, rows in seen.tables.items()},
        records=list(seen.records),
        ends=dict(seen.ends),
        committed=dict(seen.committed),
        orders=dict(seen.orders),
        calls=list(seen.calls),
        notes=deepcopy(seen.notes),
    )


def _saga(seen: Evidence, state: str) -> dict[str, Any]:
    return next(row for row in seen.tables["sagas"] if row["state"] == state)


def _taken_back(seen: Evidence) -> str:
    """Find a saga of which at least two steps were taken back."""
    return next(row["saga_id"] for row in seen.tables["sagas"] if len(row["compensated_steps"]) > 1)


def _effect(seen: Evidence, saga_id: str, **wanted: str) -> dict[str, Any]:
    rows = (row for row in seen.tables["effects"] if row["saga_id"] == saga_id)
    return next(row for row in rows if wanted.items() <= row.items())


def _drop(rows: list[dict[str, Any]], **wanted: Any) -> None:
    rows[:] = [row for row in rows if not wanted.items() <= row.items()]


def lose_saga(seen: Evidence) -> None:
    """A saga that a client was told is in is not there."""
    told = next(request for request in seen.history.requests.values() if request.result == "ok")
    _drop(seen.tables["sagas"], saga_id=told.saga_id)


def _invent_saga(seen: Evidence) -> None:
    seen.tables["sagas"].append({**_saga(seen, "COMPLETED"), "saga_id": "00000000-0000-0000-0000-000000000000"})


def _leave_open(seen: Evidence) -> None:
    _saga(seen, "COMPLETED")["state"] = "RUNNING"


def _complete_refused(seen: Evidence) -> None:
    refused = next(r for r in seen.history.requests.values() if "refuse" in r.plan.values() and r.saga_id in seen.sagas)
    row = next(row for row in seen.tables["sagas"] if row["saga_id"] == refused.saga_id)
    row["state"] = "COMPLETED"


def _double_effect(seen: Evidence) -> None:
    effects = seen.tables["effects"]
    effects.append({**effects[0], "id": effects[-1]["id"] + 1})


def _lose_effect(seen: Evidence) -> None:
    saga_id = _saga(seen, "COMPLETED")["saga_id"]
    _drop(seen.tables["effects"], saga_id=saga_id, step="settle")


def _unfill_order(seen: Evidence) -> None:
    seen.orders[order_key(_saga(seen, "COMPLETED")["saga_id"])] = ("open", 1)


def _send_attempt_twice(seen: Evidence) -> None:
    seen.calls.append(next(call for call in seen.calls if call[0] == "place"))


def _keep_what_was_aborted(seen: Evidence) -> None:
    _drop(seen.tables["effects"], saga_id=_taken_back(seen), step="charge", direction="back")


def _redo_after_undo(seen: Evidence) -> None:
    row = _effect(seen, _taken_back(seen), step="charge", direction="forward")
    row["id"] = seen.tables["effects"][-1]["id"] + 1


def _undo_undone(seen: Evidence) -> None:
    _drop(seen.tables["effects"], saga_id=_taken_back(seen), step="charge", direction="forward")


def _fill_aborted(seen: Evidence) -> None:
    seen.orders[order_key(_saga(seen, "ABORTED")["saga_id"])] = ("filled", 1)


def _first_first(seen: Evidence) -> None:
    """Money goes back in the order of the steps."""
    saga_id = _taken_back(seen)
    one = _effect(seen, saga_id, step="charge", direction="back")
    other = _effect(seen, saga_id, step="reserve", direction="back")
    one["id"], other["id"] = other["id"], one["id"]


def _leap(seen: Evidence) -> None:
    """The start of a completed saga was never on the topic, its numbers begin with two."""
    saga_id = _saga(seen, "COMPLETED")["saga_id"]
    _drop(seen.tables["audit"], saga_id=saga_id, seq=1)


def _make_money(seen: Evidence) -> None:
    seen.tables["accounts"][0]["free"] += Decimal("0.01")


def _lose_money_for_a_moment(seen: Evidence) -> None:
    sample = seen.notes.samples[len(seen.notes.samples) // 2]
    sample.total = str(Decimal(sample.total) - 1)


def _go_below_zero(seen: Evidence) -> None:
    seen.notes.samples[-1].negative = 1


def _hold_on(seen: Evidence) -> None:
    seen.tables["holds"].append({"saga_id": _saga(seen, "COMPLETED")["saga_id"], "amount": Decimal(0)})


def _find(records: Iterable[Record], topic: str, skip: int = 0) -> Record:
    return [record for record in records if record.topic == topic][skip]


def _ghost(seen: Evidence) -> None:
    """A record is on the topic that no transaction wrote."""
    record = _find(seen.records, COMMANDS)
    headers = [(name, b"ghost" if name == "ce_id" else value) for name, value in record.headers]
    seen.records.append(record._replace(offset=record.offset + 1_000_000, headers=headers))


def _unpublish(seen: Evidence) -> None:
    ids = {record.header("ce_id") for record in seen.records if record.topic == COMMANDS}
    seen.records[:] = [r for r in seen.records if r.topic != COMMANDS or r.header("ce_id") != min(ids)]


def _overtake(seen: Evidence) -> None:
    """What a step's owner said of a saga later comes to the topic before what it said first."""
    said = Counter(row["id"] for row in seen.tables["outbox"])
    lines: defaultdict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in seen.tables["outbox"]:
        if row["topic"] == EVENTS and said[row["id"]] == 1:
            lines[row["lane"], row["key"]].append(row)
    first, second = next(line for line in lines.values() if len(line) > 1)[:2]
    first["seq"], second["seq"] = second["seq"], first["seq"]


def _fall_back(seen: Evidence) -> None:
    """A zombie wrote the last row of a partition."""
    rows = sorted(seen.tables["audit"], key=lambda row: (row["partition"], row["offset"]))
    last = next(row for row, after in pairwise(rows) if row["partition"] != after["partition"])
    last["writer_epoch"] = 0


def _fence_nobody(seen: Evidence) -> None:
    seen.notes.fenced = 0


def _skip_a_record(seen: Evidence) -> None:
    place = next(place for place, end in seen.ends.items() if end)
    seen.ends[place] += 1


def _promise_too_much(seen: Evidence) -> None:
    name = next(name for name in seen.committed)
    seen.committed[name] += 1_000_000


def _leave_unpublished(seen: Evidence) -> None:
    lane = next(lane for lane in seen.tables["lanes"] if lane["last_seq"])
    lane["published_seq"] -= 1


def _lose_a_row_number(seen: Evidence) -> None:
    seen.tables["outbox"].pop()


def _truncate_audit(seen: Evidence) -> None:
    seen.tables["audit"].pop()


def _alter_audit(seen: Evidence) -> None:
    seen.tables["audit"][0]["digest"] = b"\0" * 32


def _unchain_audit(seen: Evidence) -> None:
    seen.tables["audit"][-1]["hash"] = b"\0" * 32


def _change_state(seen: Evidence) -> None:
    _saga(seen, "ABORTED")["compensated_steps"] = ["settle"]


def _drop_last_record(seen: Evidence) -> None:
    """The last fact of a completed saga is gone from the topic."""
    key = _saga(seen, "COMPLETED")["saga_id"].encode()
    place = max((r.partition, r.offset) for r in seen.records if r.topic == EVENTS and r.key == key)
    seen.records[:] = [r for r in seen.records if (r.topic, r.partition, r.offset) != (EVENTS, *place)]


def _stand_still(seen: Evidence) -> None:
    seen.notes.faults[0].progress = None


def _never_rest(seen: Evidence) -> None:
    seen.notes.drained = None


def _leak(seen: Evidence) -> None:
    seen.notes.peak_mb["desk1"] = 3000.0


def _grow(seen: Evidence) -> None:
    seen.notes.growth["desk1"] = 40.0


def _block_the_loop(seen: Evidence) -> None:
    seen.notes.lag_ms["desk1"] = 2500.0


def _say_nothing_of_the_loop(seen: Evidence) -> None:
    seen.notes.lag_ms["desk1"] = nan


def _swallow_poison(seen: Evidence) -> None:
    seen.notes.planted["never-met"] = "wrong schema"


def _bury_the_living(seen: Evidence) -> None:
    letter = next(row for row in seen.tables["outbox"] if row["topic"] == DEAD)
    headers = '{"ce_id": "good", "ce_source": "/drill/desk", "ce_correlationid": "living", "ts_dlt_offset": "7"}'
    seen.tables["outbox"].append({**letter, "headers": headers})


LIES: Final = (
    Lie("a saga is lost", "I1", lose_saga),
    Lie("a saga comes from nowhere", "I1", _invent_saga),
    Lie("a saga has not ended", "I1", _leave_open),
    Lie("a refused saga is completed", "I1", _complete_refused),
    Lie("an effect is doubled", "I2", _double_effect),
    Lie("an effect is missing", "I2", _lose_effect),
    Lie("a completed saga's order is open", "I2", _unfill_order),
    Lie("an attempt is sent twice", "I2", _send_attempt_twice),
    Lie("an effect is not taken back", "I3", _keep_what_was_aborted),
    Lie("a step is done after it was taken back", "I3", _redo_after_undo),
    Lie("what was never done is taken back", "I3", _undo_undone),
    Lie("an aborted saga's order is filled", "I3", _fill_aborted),
    Lie("compensations are done first step first", "I4", _first_first),
    Lie("a saga's first record has no number", "I5", _leap),
    Lie("money appears", "I6", _make_money),
    Lie("money is gone for a moment", "I6", _lose_money_for_a_moment),
    Lie("an account is below zero", "I6", _go_below_zero),
    Lie("an ended saga holds money", "I6", _hold_on),
    Lie("a ghost is on the topic", "I7", _ghost),
    Lie("a row was never published", "I7", _unpublish),
    Lie("a fact overtakes another", "I7", _overtake),
    Lie("a zombie wrote", "I8", _fall_back),
    Lie("nobody was fenced", "I8", _fence_nobody),
    Lie("a record was not read", "I9", _skip_a_record),
    Lie("Kafka was told of more than was done", "I9", _promise_too_much),
    Lie("a row waits to be published", "I9", _leave_unpublished),
    Lie("a row number is missing", "I9", _lose_a_row_number),
    Lie("the audit log's tail is cut off", "I10", _truncate_audit),
    Lie("an audit row is altered", "I10", _alter_audit),
    Lie("an audit row is not chained", "I10", _unchain_audit),
    Lie("a saga's row is changed", "I11", _change_state),
    Lie("a record is gone from the topic", "I11", _drop_last_record),
    Lie("nothing ended after a fault", "I12", _stand_still),
    Lie("the sagas never rest", "I12", _never_rest),
    Lie("a process eats memory", "I12", _leak),
    Lie("a process's memory grows and grows", "I12", _grow),
    Lie("an event loop is blocked", "I12", _block_the_loop),
    Lie("an event loop was never heard of", "I12", _say_nothing_of_the_loop),
    Lie("a poison was swallowed", "I13", _swallow_poison),
    Lie("a good record is in the dead letters", "I13", _bury_the_living),
)
