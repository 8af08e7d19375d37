"""A batch taken in halves is the same batch."""

from hypothesis import given
from hypothesis import strategies as st

from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.outbox.batch import Chunk, halve, offsets, received
from tradesaga.infra.outbox.lane_rows import Lane


@st.composite
def batches(draw: st.DrawFn) -> list[Chunk]:
    """Draw the polls of three lanes, with gaps where nobody wanted a record, and with polls that brought none."""
    lanes = [Lane(number, "t.events", number, 1, 0, 0, 0) for number in (1, 2, 3)]
    following: dict[int, int] = dict.fromkeys((1, 2, 3), 0)
    chunks: list[Chunk] = []
    for lane in draw(st.lists(st.sampled_from(lanes), max_size=8)):
        gaps = draw(st.lists(st.integers(0, 3), max_size=6))
        records: list[Record] = []
        for gap in gaps:
            records.append(Record("t.events", lane.id, following[lane.id] + gap, 0, b"k", b"v", []))
            following[lane.id] = records[-1].offset + 1
        following[lane.id] += draw(st.integers(0, 2))
        chunks.append(Chunk(lane, following[lane.id], records))
    return chunks


@given(batches())
def test_halves_take_the_same_records_in_the_same_order(batch: list[Chunk]) -> None:
    """Both halves are smaller, and together they leave every lane where the whole would have."""
    halves = halve(batch)
    if halves is None:
        assert len(received(batch)) < 2
        return
    first, second = halves
    assert received(first) + received(second) == received(batch)
    assert min(len(received(first)), len(received(second))) >= len(received(batch)) // 2
    assert offsets(first) | offsets(second) == offsets(batch)


@given(batches())
def test_nothing_is_passed_by_between_the_halves(batch: list[Chunk]) -> None:
    """Were the process to die after the first half, the records of the second would be read again."""
    halves = halve(batch)
    if halves is None:
        return
    first, second = halves
    reached = offsets(first)
    assert all(each.record.offset >= reached.get(each.lane, 0) for each in received(second))
