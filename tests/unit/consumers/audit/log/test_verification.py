"""What a verification tells of one log: each verdict for itself, and a log whose oldest records are retired."""

from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from tradesaga.consumers.audit.log.log_check import Begin, LogCheck, Report, Verdict
from tradesaga.consumers.audit.log.rows import Row
from tradesaga.consumers.saga_log.chain import StoredBytes, link
from tradesaga.consumers.saga_log.fold import describe
from tradesaga.infra.audit_log.checkpoint import Checkpoint, Origin
from tradesaga.infra.audit_log.merkle import Frontier, hash_leaf
from tradesaga.infra.kafka.codec import Record, dump_headers
from tradesaga.schemas.envelope import SAGA_ID, TYPE

ORIGIN = Origin("desk", "small.events", 0)
SAGA = uuid4()


def told(count: int, saga_id: UUID = SAGA) -> list[Row]:
    """Give the rows of one saga, each with the hash that it should have."""
    rows: list[Row] = []
    for offset in range(count):
        headers = ((SAGA_ID, str(saga_id).encode()), (TYPE, b"small.held.v1"))
        record = Record(ORIGIN.topic, 0, offset, 1_790_000_000_000 + offset, b"k", b"{}", headers)
        stored = StoredBytes(b"k", dump_headers(headers), b"{}", link(rows[-1].hash if rows else b"", record))
        rows.append(Row(record, stored, saga_id, offset + 1, *describe(dict(headers))))
    return rows


def frontier_of(rows: list[Row]) -> Frontier:
    """Give the edge of the tree over rows."""
    frontier = Frontier.empty()
    for row in rows:
        frontier.append(hash_leaf(row.hash))
    return frontier


def sealed(rows: list[Row], size: int) -> Checkpoint:
    """Give a checkpoint of the first `size` rows."""
    return Checkpoint(str(ORIGIN), size, frontier_of(rows[:size]).root(), size, "", 1)


def check(rows: list[Row], checkpoints: list[Checkpoint], begin: Begin | None) -> Report:
    """Check these rows."""
    report = Report()
    log = LogCheck(report, ORIGIN, {each.size: each for each in checkpoints}, begin)
    for row in rows:
        log.take(row)
    log.finish()
    return report


def test_a_log_goes_on_where_what_was_retired_has_left_it() -> None:
    """With the edge, the offset and the saga's head, later records and checkpoints hold; older ones ask for nothing."""
    rows = told(9)
    begin = Begin(frontier_of(rows[:5]), 5, {SAGA: (5, rows[4].hash)})
    checkpoints = [sealed(rows, size) for size in (3, 5, 9)]
    assert check(rows[5:], checkpoints, begin).findings == []
    assert check([], checkpoints[:2], begin).findings == []


def test_a_begin_that_is_not_true_is_found() -> None:
    """Another edge, another offset, another head, none at all: each breaks a verdict."""
    rows = told(9)
    checkpoints = [sealed(rows, size) for size in (5, 9)]
    true = Begin(frontier_of(rows[:5]), 5, {SAGA: (5, rows[4].hash)})
    for begin, verdict in (
        (true._replace(frontier=frontier_of(told(5, uuid4()))), Verdict.ALTERED),
        (true._replace(next_offset=4), Verdict.INCOMPLETE),
        (true._replace(heads={SAGA: (5, rows[3].hash)}), Verdict.ALTERED),
        (true._replace(heads={}), Verdict.INCOMPLETE),
        (None, Verdict.INCOMPLETE),
    ):
        assert not check(rows[5:], checkpoints, begin).holds(verdict)


def test_a_verdict_is_broken_by_a_finding_that_is_only_counted() -> None:
    """A hundred findings of one kind do not hide that the other promise is broken too."""
    report = Report()
    for number in range(100):
        report.add(Verdict.ALTERED, f"record {number}", "altered")
    assert report.holds(Verdict.INCOMPLETE)
    report.add(Verdict.INCOMPLETE, "the tail", "is gone")
    assert not report.holds(Verdict.INCOMPLETE)
    assert report.further == 1


def strays(skips: list[int]) -> list[Row]:
    """Give rows of no saga, before each of which so many offsets hold no record."""
    rows: list[Row] = []
    for skipped in skips:
        rows.append(stray((rows[-1].record.offset if rows else -1) + skipped + 1, skipped))
    return rows


def stray(offset: int, skipped: int) -> Row:
    """Give a row of no saga."""
    record = Record(ORIGIN.topic, 0, offset, 1_790_000_000_000 + offset, None, b"{}", (), skipped=skipped)
    stored = StoredBytes(None, dump_headers(()), b"{}", link(b"", record), skipped or None)
    return Row(record, stored, None, None, *describe({}))


many_skips = st.lists(st.one_of(st.just(0), st.integers(0, 5)), min_size=2, max_size=12).map(lambda all_: [0, *all_])


@settings(max_examples=200, deadline=None)
@given(many_skips, st.data())
def test_only_what_a_row_says_was_skipped_is_no_record(skips: list[int], data: st.DataObject) -> None:
    """With its gaps a log is complete; any row that goes before it is sealed is missed, and so is a planted one."""
    rows = strays(skips)
    whole = [sealed_as_is(rows)]
    assert check(rows, whole, None).findings == []
    gone = data.draw(st.integers(0, len(rows) - 2))
    left = rows[:gone] + rows[gone + 1 :]
    report = check(left, [sealed_as_is(left)], None)
    assert report.holds(Verdict.ALTERED)
    # A log of which the first row goes begins later; where its second one follows directly, that is known by the topic.
    assert report.holds(Verdict.INCOMPLETE) == (gone == 0 and skips[1] == 0)
    gaps = [place for place, skipped in enumerate(skips) if skipped]
    if gaps:
        place = data.draw(st.sampled_from(gaps))
        planted = stray(rows[place].record.offset - 1, skips[place] - 1)
        more = [*rows[:place], planted, *rows[place:]]
        assert not check(more, [sealed_as_is(more)], None).holds(Verdict.ALTERED)


def sealed_as_is(rows: list[Row]) -> Checkpoint:
    """Give a checkpoint of rows as they are."""
    return Checkpoint(str(ORIGIN), len(rows), frontier_of(rows).root(), rows[-1].record.offset + 1, "", 1)
