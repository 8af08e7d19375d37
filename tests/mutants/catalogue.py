"""The mutants: what is broken, and how."""

from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.model.scene import Part
from tests.mutants.surgery import changed, everywhere, replaced, rewritten
from tradesaga.consumers.runtime import dispatch, processor
from tradesaga.consumers.runtime.batch_context import BatchContext
from tradesaga.consumers.runtime.held_steps import HeldSteps
from tradesaga.consumers.runtime.message import Message
from tradesaga.consumers.runtime.processor import StepProcessor
from tradesaga.consumers.runtime.step_rows import Key, Row
from tradesaga.consumers.saga_log.processor import SagaLog
from tradesaga.consumers.testing.simulation import lane_statements, row_statements
from tradesaga.infra.outbox import lane_rows
from tradesaga.infra.outbox.commit import Committer
from tradesaga.infra.outbox.fetcher import Fetcher
from tradesaga.infra.outbox.ports import make_producer
from tradesaga.infra.outbox.publish import Publisher
from tradesaga.sagas import decide
from tradesaga.sagas.decide import Action, StepMessage
from tradesaga.sagas.facts import Meaning
from tradesaga.sagas.machine import BarStep, Machine
from tradesaga.sagas.step import AnyStep
from tradesaga.sagas.step_sets import bits
from tradesaga.sagas.step_state import RowStatus, StepState
from tradesaga.schemas.messages.lifecycle import StepBarred


@dataclass(frozen=True)
class Mutant:
    """One hole: `plant` opens it while its context is open; `seeds` have found it before, and are tried first."""

    name: str
    plant: Callable[[], AbstractContextManager[Any]]
    seeds: tuple[int, ...] = ()


@contextmanager
def no_epoch_check() -> Generator[None]:
    """The fence compares outbox numbers, and not epochs."""
    fence = lane_rows.FENCE.replace("l.epoch = m.epoch AND ", "")
    advance = lane_rows.ADVANCE.replace("l.epoch = m.epoch AND ", "")

    def is_owned(row: dict[str, Any], _epoch: int, last_seq: int) -> bool:
        return row["last_seq"] == last_seq

    with (
        everywhere(lane_rows.FENCE, fence),
        everywhere(lane_rows.ADVANCE, advance),
        replaced(lane_statements, "is_owned", is_owned),
    ):
        yield


@contextmanager
def no_natural_key() -> Generator[None]:
    """Whether a step has run is asked of the offset alone: no row is looked up, and a second one overwrites it."""

    async def load(sql: Any, keys: Collection[Key]) -> dict[Key, Row]:
        return {}

    async def upsert(tx: Any, *arrays: Any) -> str:
        for *values, wait in zip(*arrays, strict=True):
            tx.put(row_statements.TABLE, (values[0], values[1]), row_statements.timed(tx, values, wait))
        return f"INSERT 0 {len(arrays[0])}"

    async def overwrite(tx: Any, _columns: Any, records: Any) -> str:
        return await upsert(tx, *zip(*((*values, None) for values in records), strict=True))

    with (
        replaced(processor, "load", load),
        replaced(row_statements, "insert", upsert),
        replaced(row_statements, "copy", overwrite),
    ):
        yield


@contextmanager
def no_bar() -> Generator[None]:
    """A bar for a step that has not begun is answered, and nothing written that keeps it from beginning."""
    former = BatchContext.answer_barred

    def bar(batch: BatchContext, row: Row, trigger: Any, lane: int) -> None:
        if row.known is None and row.key not in batch.dirty:
            batch.transaction.emit(lane, batch.make_event(row, trigger, StepBarred(step=row.step)))
            del batch.rows[row.key]
        else:
            former(batch, row, trigger, lane)

    with replaced(BatchContext, "answer_barred", bar):
        yield


def publish_before_commit() -> AbstractContextManager[None]:
    """What a batch says is sent before it is committed."""
    before = "reach(Failpoint.BEFORE_COMMIT)"
    return changed(
        Committer, "_transact", (before, f"await session.publisher.publish(transaction.rows)\n{' ' * 16}{before}")
    )


@contextmanager
def auto_commit() -> Generator[None]:
    """Kafka's offsets rule, and are committed as soon as records have been fetched."""
    commit = "await self._consumer.commit({place: polled.following for place, polled in fetched.items()})"
    with ExitStack() as stack:
        stack.enter_context(
            changed(
                Fetcher,
                "run",
                ("for place, polled in", f"{commit}\n{' ' * 8}for place, polled in"),
            )
        )
        stack.enter_context(changed(Fetcher, "_seek", ("self._consumer.seek(place, lane.next_offset)", "pass")))
        yield


def first_in_first_out() -> AbstractContextManager[None]:
    """What was done first is taken back first."""
    return changed(
        Machine, "_compensate_last", ("index = left.bit_length() - 1", "index = (left & -left).bit_length() - 1")
    )


@contextmanager
def late_success_ignored() -> Generator[None]:
    """A success that comes while the saga is being taken back only settles the step."""
    former = Machine.fold

    def fold(self: Machine, state: Any, fact: Any) -> Any:
        if fact.meaning is Meaning.DONE and self._is_compensating(state) and not state.done >> fact.step & 1:  # pyright: ignore[reportPrivateUsage]
            fact = fact._replace(meaning=Meaning.BARRED)
        return former(self, state, fact)

    with replaced(Machine, "fold", fold):
        yield


@contextmanager
def producer_not_rebuilt() -> Generator[None]:
    """A process keeps the producer that has failed it."""
    kept: dict[Any, Any] = {}

    def keep(brokers: Any, client_id: str) -> Any:
        if brokers not in kept:
            made = kept[brokers] = make_producer(brokers, client_id)
            made.stop = _nothing
        return kept[brokers]

    with everywhere(make_producer, keep):
        yield


async def _nothing() -> None:
    pass


@contextmanager
def due_without_all_lanes() -> Generator[None]:
    """A batch in which something is due locks the lanes of its records alone, and forgets what is due on others."""
    condition = ("transaction.has_all_lanes and ", "")
    with (
        changed(StepProcessor, "other_lanes", (" or self._is_due()", "")),
        changed(StepProcessor, "apply", condition),
        changed(SagaLog, "other_lanes", ("None if self.due_in() == 0 else ()", "()")),
        changed(SagaLog, "apply", condition),
    ):
        yield


def claim_not_gated() -> AbstractContextManager[None]:
    """Records that were fetched before the lanes were claimed, and sought, are taken."""
    return changed(
        Fetcher,
        "run",
        ("lane = ready.get(place)", "lane = self._unsought.get(place) or self._ready.get(place)"),
        ("if lane is not None and self._ready.get(place) is lane:", "if lane is not None:"),
    )


def cursor_outbox() -> AbstractContextManager[None]:
    """The mark follows what was read and sent, not what was acknowledged."""
    sent = "self._changed.set()"
    marked = "for row in rows:\n        self._lanes[row.lane].acked_seq = row.seq"
    return changed(Publisher, "_follow", (sent, f"{sent}\n    {marked}"))


def compensation_before_bars() -> AbstractContextManager[None]:
    """What is done is taken back while other steps are still outstanding."""
    return changed(Machine, "_due", ("if not outstanding:", "if self._left(state):"))


@contextmanager
def two_rows() -> Generator[None]:
    """A bar has a row of its own, beside that of the action which it is to keep from happening."""
    former, apart = BatchContext.answer_barred, "/bar"

    def key(self: Message) -> Key:
        away = self.kind is StepMessage.BAR and not self.binding.waiting
        return self.saga_id, self.binding.step.name + (apart if away else "")

    def bar(batch: BatchContext, row: Row, trigger: Any, lane: int) -> None:
        name = row.step.removesuffix(apart)
        if name == row.step:
            former(batch, row, trigger, lane)
            return
        made = batch.make_event(replace(row, step=name), trigger, StepBarred(step=name))
        row.keep_answer(made.packed)
        batch.transaction.emit(lane, made)
        batch.touch(row)

    def open_row(self: BatchContext, message: Message, status: RowStatus) -> Row:
        opened = Row(message.saga_id, message.key[1], message.lane, status, started=self.runtime.now())
        self.rows[opened.key] = opened
        return opened

    with (
        replaced(BatchContext, "answer_barred", bar),
        replaced(Message, "key", property(key)),
        replaced(BatchContext, "open_row", open_row),
    ):
        yield


def on_from_memory() -> AbstractContextManager[None]:
    """After a COMMIT that nobody answered, the batch goes on from memory as if it were committed."""
    redo = "except REDO as error:"
    return changed(
        Committer,
        "_transact",
        (
            "sql = session.sql",
            "from asyncpg import PostgresConnectionError as Lost\n    sql, transaction = session.sql, None",
        ),
        (
            redo,
            "except Lost:\n            if not transaction:\n                raise\n            return transaction\n"
            + " " * 8
            + redo,
        ),
    )


def not_found_is_never() -> AbstractContextManager[None]:
    """A call that the far side does not know yet counts as one that has never happened."""
    former = vars(dispatch)["_apply_not_found"]
    return everywhere(former, rewritten(former, ("if left <= 0:", "if True:")))


def duplicates_dropped() -> AbstractContextManager[None]:
    """What concerns a step that has a row already is dropped as seen before."""

    def handle(batch: BatchContext, message: Message) -> None:
        seen = batch.rows.get(message.key)
        if seen is None or message.kind in {StepMessage.COMPENSATE, StepMessage.REPORT}:
            former(batch, message)

    former = dispatch.handle_message
    return everywhere(former, handle)


@contextmanager
def bar_past_pivot() -> Generator[None]:
    """Once bars have been sent, they follow the saga past its pivot."""
    former = vars(Machine)["_due"]

    def due(self: Any, state: Any, orders: Any = (), refusal: str = "") -> Any:
        folded = former(self, state, orders, refusal)
        if not self.passed(folded.state) or not folded.state.bar_asked:
            return folded
        state = folded.state
        before = self._before
        left = [i for i in bits(self._retriable & ~state.done & ~state.bar_asked) if not before[i] & ~state.done]
        asked = state.bar_asked | sum(1 << i for i in left)
        bars = tuple(BarStep(i) for i in left)
        return folded._replace(state=state._replace(bar_asked=asked), orders=(*folded.orders, *bars))

    with replaced(Machine, "_due", due):
        yield


def old_round_counts() -> AbstractContextManager[None]:
    """A failed compensation counts as failed for good, in whatever round it failed."""
    return changed(
        Machine,
        "_compensation_failed",
        (
            "equal_rounds(state.undo_failed, state.undo_rounds)",
            "sum(1 << i for i, n in enumerate(state.undo_failed) if n)",
        ),
    )


def retry_not_compared() -> AbstractContextManager[None]:
    """An operator's retry runs the step, whether or not it has failed, in whatever round."""
    former = decide.decide

    def always(state: StepState, message: StepMessage, step: AnyStep, round_: int = 1, attempt: int = 1) -> Any:
        decided = former(state, message, step, round_, attempt)
        if message is not StepMessage.RETRY:
            return decided
        if state.status not in {RowStatus.FAILED, RowStatus.DONE}:
            return decided._replace(action=Action.NOTHING)
        return former(Part(RowStatus.FAILED, round=0), message, step, round_)

    return everywhere(former, always)


def pause_for_ever() -> AbstractContextManager[None]:
    """Rows that a pause holds are not checked when it has ended."""
    return changed(HeldSteps, "read", ("if self.pauses <= pauses:", "if True:"))


MUTANTS = (
    Mutant("no epoch check", no_epoch_check),
    Mutant("no natural key", no_natural_key),
    Mutant("no bar", no_bar, (40,)),
    Mutant("publish before commit", publish_before_commit),
    Mutant("auto-commit", auto_commit),
    Mutant("first-in-first-out compensation", first_in_first_out),
    Mutant("late success ignored", late_success_ignored),
    Mutant("producer not rebuilt", producer_not_rebuilt),
    Mutant("records taken before the lane is acquired", claim_not_gated),
    Mutant("due rows of some lanes taken for all", due_without_all_lanes),
    Mutant("watermark ahead of acknowledgements", cursor_outbox),
    Mutant("compensation before every bar is answered", compensation_before_bars),
    Mutant("two rows for action and bar", two_rows),
    Mutant("memory trusted after an unanswered COMMIT", on_from_memory),
    Mutant("not found accepted too early", not_found_is_never, (32,)),
    Mutant("duplicates dropped blindly", duplicates_dropped),
    Mutant("bar past the pivot", bar_past_pivot, (58,)),
    Mutant("failure of an old round counted", old_round_counts),
    Mutant("retry not compared", retry_not_compared, (204,)),
    Mutant("the end of a pause not noticed", pause_for_ever, (300,)),
)
