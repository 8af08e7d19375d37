"""What a verification tells of one log: each verdict for itself, and a log whose oldest records are retired."""

from uuid import UUID, uuid4

from consumers.audit.verification import Begin, LogCheck, Report, Row, Verdict
from consumers.saga_log.chain import StoredBytes, link
from consumers.saga_log.outcome import describe
from infra.audit.checkpoint import Checkpoint
from infra.audit.merkle import Edge, hash_leaf
from infra.audit.origin import Origin
from infra.codec import Record, dump_headers
from schemas.envelope import SAGA_ID, TYPE

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


def edge_of(rows: list[Row]) -> Edge:
    """Give the edge of the tree over rows."""
    edge = Edge.empty()
    for row in rows:
        edge.append(hash_leaf(row.hash))
    return edge


def sealed(rows: list[Row], size: int) -> Checkpoint:
    """Give a checkpoint of the first `size` rows."""
    return Checkpoint(str(ORIGIN), size, edge_of(rows[:size]).root(), size, "", 1)


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
    begin = Begin(edge_of(rows[:5]), 5, {SAGA: (5, rows[4].hash)})
    checkpoints = [sealed(rows, size) for size in (3, 5, 9)]
    assert check(rows[5:], checkpoints, begin).findings == []
    assert check([], checkpoints[:2], begin).findings == []


def test_a_begin_that_is_not_true_is_found() -> None:
    """Another edge, another offset, another head, none at all: each breaks a verdict."""
    rows = told(9)
    checkpoints = [sealed(rows, size) for size in (5, 9)]
    true = Begin(edge_of(rows[:5]), 5, {SAGA: (5, rows[4].hash)})
    for begin, verdict in (
        (true._replace(edge=edge_of(told(5, uuid4()))), Verdict.ALTERED),
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
