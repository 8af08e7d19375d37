"""What must hold whatever was broken: each check counts what it has looked at, and says in a sentence what is wrong."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import Any, Final

from tests.faults import refolding, topics
from tests.faults.evidence import Evidence, Notes
from tests.faults.market import order_key
from tests.faults.plan import may_complete, needs_person
from tests.faults.saga import STEPS

SHOWN: Final = 5
ENDED: Final = frozenset({"COMPLETED", "ABORTED", "FAILED"})
LOCAL: Final = frozenset({"reserve", "charge", "settle"})
PEAK_MB: Final = 300.0
GROWTH_MB: Final = 10.0
"""A minute, in a process that has had time to get warm."""
LAG_MS: Final = 800.0
"""A fifth of the shortest session that a run gives a process."""


@dataclass
class Verdict:
    """What one invariant came to."""

    name: str
    title: str
    checked: int
    findings: list[str]

    @property
    def holds(self) -> bool:
        """Say whether it was tested and nothing was found."""
        return self.checked > 0 and not self.findings


Check = Callable[[Evidence], tuple[int, Iterable[str]]]


def one_saga_a_start(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I1: every start that a client was told is in is one saga, and has ended; nobody else's saga is there."""
    sagas, started = seen.sagas, {row["saga_id"] for row in seen.tables["started"]}

    def find() -> Iterator[str]:
        for request in seen.history.requests.values():
            row = sagas.get(request.saga_id)
            yield from (f"saga {request.saga_id}: a client was {odd}" for odd in request.odd)
            if request.result == "ok" and row is None:
                yield f"saga {request.saga_id} is lost: a client was told ok by {request.door}"
            elif request.result == "fail" and row is not None:
                yield f"saga {request.saga_id} runs though its client was told that nothing was stored"
            if row is not None and not _fits(row["state"], request.plan):
                yield f"saga {request.saga_id} is {row['state']}, its plan was {request.plan or 'to complete'}"
        for saga_id in sagas.keys() - seen.history.requests.keys():
            yield f"saga {saga_id} was never asked for"
        for saga_id in sagas.keys() ^ started:
            yield f"saga {saga_id} is in only one of saga and start_request"

    return len(seen.history.requests), find()


def _fits(state: str, plan: dict[str, str]) -> bool:
    if state == "COMPLETED":
        return may_complete(plan)
    return state == "ABORTED" or (state == "FAILED" and needs_person(plan))


def each_effect_once(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I2: a completed saga has exactly its effects; no effect is there twice; no attempt reached the exchange twice."""
    return len(seen.tables["effects"]) + len(seen.orders), chain(_doubled(seen), _incomplete(seen))


def _doubled(seen: Evidence) -> Iterator[str]:
    for saga_id, found in _effects(seen).items():
        for effect, count in Counter((row["step"], row["direction"]) for row in found).items():
            if count > 1:
                yield f"saga {saga_id}: {effect} took effect {count} times"
    for (key, attempt), count in Counter((key, n) for kind, key, n in seen.calls if kind == "place").items():
        if count > 1:
            yield f"order {key} was sent {count} times in attempt {attempt}"


def _incomplete(seen: Evidence) -> Iterator[str]:
    effects = _effects(seen)
    for saga_id, row in seen.sagas.items():
        if row["state"] != "COMPLETED":
            continue
        done = {(each["step"], each["direction"]) for each in effects.get(saga_id, ())}
        if done != {(step, "forward") for step in LOCAL}:
            yield f"saga {saga_id} is COMPLETED with the effects {sorted(done)}"
        order = seen.orders.get(order_key(saga_id))
        if order != ("filled", 1):
            yield f"saga {saga_id} is COMPLETED, its order at the exchange is {order}"


def nothing_stands(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I3: what an unfinished saga did is taken back exactly once, after it was done, and not done again."""
    effects = _effects(seen)

    def find() -> Iterator[str]:
        for saga_id, row in seen.sagas.items():
            yield from _unfinished(saga_id, row["state"], effects.get(saga_id, []))
            state, _ = seen.orders.get(order_key(saga_id), ("", 0))
            if row["state"] == "ABORTED" and state in {"open", "filled"}:
                yield f"saga {saga_id} is ABORTED, its order at the exchange is {state}"
        yield from (f"effects of saga {saga_id}, which is none" for saga_id in effects.keys() - seen.sagas.keys())
        for record in seen.records:
            if record.header("ce_type").endswith(b".step-contradicted.v1"):
                yield f"{record.topic}[{record.partition}]@{record.offset}: the exchange contradicts a step"

    return len(effects), find()


def _unfinished(saga_id: str, state: str, found: list[dict[str, Any]]) -> Iterator[str]:
    forth = {row["step"]: row["id"] for row in found if row["direction"] == "forward"}
    back = {row["step"]: row["id"] for row in found if row["direction"] == "back"}
    for step, number in back.items():
        if step not in forth:
            yield f"saga {saga_id}: {step} was taken back without having been done"
        elif forth[step] > number:
            yield f"saga {saga_id}: {step} was done after it was taken back"
    if state == "COMPLETED" and back:
        yield f"saga {saga_id} is COMPLETED, yet {sorted(back)} were taken back"
    if state == "ABORTED" and (left := forth.keys() - back.keys()):
        yield f"saga {saga_id} is ABORTED, yet {sorted(left)} stand"


def last_first(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I4: compensations are done in the reverse order of the steps."""
    undone = topics.compensations(seen)

    def find() -> Iterator[str]:
        for saga_id, steps in undone.items():
            if steps != sorted(steps, key=STEPS.index, reverse=True):
                yield f"saga {saga_id} was taken back in the order {steps}"
        for saga_id, found in _effects(seen).items():
            back = [row["step"] for row in found if row["direction"] == "back"]
            if back != sorted(back, key=STEPS.index, reverse=True):
                yield f"saga {saga_id}: money went back in the order {back}"

    return len(undone), find()


def money_is_kept(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I6: the sum of all money is the same in every sample; nothing is held by a saga that has ended well."""
    money = Decimal(seen.notes.money)
    sagas = seen.sagas

    def find() -> Iterator[str]:
        for number, sample in enumerate(seen.notes.samples):
            if Decimal(sample.total) != money or sample.negative:
                yield f"in sample {number} there is {sample.total} of {money}, {sample.negative} accounts below zero"
        for row in seen.tables["holds"]:
            if sagas.get(row["saga_id"], {}).get("state") != "FAILED":
                yield f"{row['amount']} is held for saga {row['saga_id']}, which has not failed"
        paid = sum((row["amount"] for row in seen.tables["effects"] if row["step"] != "reserve"), Decimal(0))
        held = sum((row["amount"] for row in seen.tables["holds"]), Decimal(0))
        free = sum((row["free"] for row in seen.tables["accounts"]), Decimal(0))
        if free + held + paid != money:
            yield f"{free} free, {held} held and {paid} paid are not {money}"

    return len(seen.notes.samples), find()


def epochs_never_fall(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I8: per partition, the epochs of the audit log's writers never decrease; zombies were fenced."""

    def find() -> Iterator[str]:
        last: dict[tuple[str, int], int] = {}
        for row in sorted(seen.tables["audit"], key=lambda row: (row["topic"], row["partition"], row["offset"])):
            place = row["topic"], row["partition"]
            if row["writer_epoch"] < last.get(place, 0):
                yield f"{place}@{row['offset']} was written under epoch {row['writer_epoch']} after {last[place]}"
            last[place] = row["writer_epoch"]
        if not seen.notes.fenced:
            yield "no write was fenced: the run has tested nothing of it"

    return len(seen.tables["audit"]), find()


def progress_returns(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I12: after each fault sagas end again in time; at the end all come to rest; no process takes ever more."""
    notes = seen.notes

    def find() -> Iterator[str]:
        for fault in notes.faults:
            if fault.progress is None or fault.progress - fault.ended > notes.limit:
                yield f"{fault.phase}: no saga ended within {notes.limit:.0f} s after {fault.name}"
        if notes.drained is None:
            yield "the sagas have not come to rest"
        yield from _hungry(notes)
        yield from (f"{row['saga_id']}: {row['step']} still waits for its time" for row in seen.tables["due"])
        parked = [row for row in seen.tables["parked"] if row["released"] is None]
        yield from (f"{row['topic']}[{row['partition']}]@{row['offset']} is still parked" for row in parked)

    return len(notes.faults), find()


def _hungry(notes: Notes) -> Iterator[str]:
    """Find processes that took more and more memory, or had no time for their event loop."""
    yield from (f"{name} used {peak:.0f} MB" for name, peak in notes.peak_mb.items() if peak > PEAK_MB)
    for name, growth in notes.growth.items():
        if growth > GROWTH_MB:
            yield f"{name} grew by {growth:.1f} MB a minute"
    for name, lag in notes.lag_ms.items():
        if not lag <= LAG_MS:  # one that has never told is no number
            yield f"{name}'s event loop usually came {lag:.0f} ms late, or was never heard of"


def _effects(seen: Evidence) -> dict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(seen.tables["effects"], key=lambda row: row["id"]):
        found[row["saga_id"]].append(row)
    return found


CHECKS: Final[tuple[tuple[str, str, Check], ...]] = (
    ("I1", "each accepted start is one saga, which has ended", one_saga_a_start),
    ("I2", "each effect happened once, here and at the exchange", each_effect_once),
    ("I3", "no effect of a compensated step remains", nothing_stands),
    ("I4", "steps are compensated in reverse order", last_first),
    ("I5", "each saga's states are a path of the state machine", refolding.states_are_a_path),
    ("I6", "money is conserved at every moment", money_is_kept),
    ("I7", "outbox and topics hold the same records in the same order", topics.outbox_is_published),
    ("I8", "epochs never decrease, and replaced processes were fenced", epochs_never_fall),
    ("I9", "offsets: everything is read and published", topics.offsets_agree),
    ("I10", "the audit log equals the topic, byte for byte", refolding.audit_is_the_topic),
    ("I11", "the topics, folded again, give the saga table", refolding.topics_fold_to_the_table),
    ("I12", "progress resumes after each fault", progress_returns),
    ("I13", "dead letters: each planted invalid record once, nothing else", topics.dead_letters_are_planted),
)


def judge(seen: Evidence) -> list[Verdict]:
    """Run all checks."""
    return [Verdict(name, title, *_run(check, seen)) for name, title, check in CHECKS]


def _run(check: Check, seen: Evidence) -> tuple[int, list[str]]:
    checked, findings = check(seen)
    return checked, list(findings)
