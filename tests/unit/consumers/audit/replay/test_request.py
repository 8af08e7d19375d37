"""Moments, ranges and options of a replay: read as people write them, refused where they make no sense."""

import pytest

from tradesaga.consumers.audit.options import read_time
from tradesaga.consumers.audit.replay.request import Request, TimeSource, read_offsets
from tradesaga.infra.errors import CommandError, ExitCode


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2026-11-23T14:03:07.120+01:00", 1_795_438_987_120_000_000),
        ("2026-11-23 13:03:07.123456789z", 1_795_438_987_123_456_789),
        ("2026-11-23T13:03Z", 1_795_438_980_000_000_000),
        ("1795438987123456789", 1_795_438_987_123_456_789),
    ],
)
def test_moments_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    """With a zone, or as nanoseconds."""
    assert read_time(text, "--at") == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "14:03:07", "2026-11-23", "2026-11-23T14:03:07", "2026-13-01T00:00:00Z", "2026-11-23T25:00:00Z",
        "1795438987", "1969-12-31T23:59:59Z", "2300-01-01T00:00:00Z", "2026-11-23T14:03:07.1234567890Z",
        "٢٠٢٦-11-23T14:03:07Z",
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text: str) -> None:
    """A time without a zone is a guess, and a guess is no evidence."""
    with pytest.raises(CommandError) as raised:
        read_time(text, "--at")
    assert raised.value.exit_code is ExitCode.USAGE
    assert raised.value.where == "--at"


def test_offsets_are_read_with_open_ends() -> None:
    """Partition by partition."""
    found = read_offsets(["a.events[0]=5..9", "a.events[2]=7..", "a.events[1]", "a.events[3]=..4"], "a.events", 4)
    places = {("a.events", 0): (5, 9), ("a.events", 2): (7, -1), ("a.events", 1): (-1, -1), ("a.events", 3): (-1, 4)}
    assert found == places
    assert read_offsets([], "a.events", 4) is None


@pytest.mark.parametrize(
    "text", ["a.events", "a.events[x]", "a.events[0]=9..5", "a.events[4]", "b.events[0]", "a.events[0]=1-2", "[0]"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    """A topic, a partition and an order that there are."""
    with pytest.raises(CommandError) as raised:
        read_offsets([text], "a.events", 4)
    assert raised.value.exit_code is ExitCode.USAGE


def test_a_partition_is_named_once() -> None:
    """Two ranges of one partition would be folded one over the other."""
    with pytest.raises(CommandError, match="once"):
        read_offsets(["a.events[0]=1..2", "a.events[0]=5..6"], "a.events", 4)


@pytest.mark.parametrize(
    "request_",
    [
        Request(clock=TimeSource.EVENT),
        Request(saga_id="x"),
        Request(at="2026-11-23T14:03:07Z", since="2026-11-23T14:03:07Z"),
        Request(at="2026-11-23T14:03:07Z", offsets=("a.events[0]",)),
        Request(follow=True, at="2026-11-23T14:03:07Z"),
        Request(follow=True, until="2026-11-23T14:03:07Z"),
    ],
)
def test_options_that_exclude_each_other_are_refused(request_: Request) -> None:
    """Before any server is asked."""
    with pytest.raises(CommandError) as raised:
        request_.check()
    assert raised.value.exit_code is ExitCode.USAGE


def test_the_future_is_not_known() -> None:
    """Nor is a saga by half of its id, or a range that ends before it begins."""
    with pytest.raises(CommandError, match="is in the future"):
        Request(at="2200-01-01T00:00:00Z").as_of()
    with pytest.raises(CommandError, match="is not a saga id"):
        Request(at="2026-01-01T00:00:00Z", saga_id="0b1c").as_of()
    with pytest.raises(CommandError, match="not after"):
        Request(since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z").range("a.events", 4)
