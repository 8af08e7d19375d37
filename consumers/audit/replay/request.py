"""Parses and validates the options of `audit replay`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from tradesaga.consumers.audit.options import read_time
from tradesaga.consumers.saga_log.reading import event_time, read_saga
from tradesaga.infra.clock import SystemClock, format_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Record
from tradesaga.infra.kafka.connections import Partition
from tradesaga.infra.kafka.topic_reader import TopicReader


class TimeSource(StrEnum):
    """Which of a record's two times is used."""

    EVENT = "event"
    RECORDED = "recorded"


TimeOf = Callable[[Record], int]


def recorded_time(record: Record) -> int:
    """Return the broker's time in nanoseconds."""
    return record.recorded_ms * 1_000_000


def time_of(record: Record) -> int:
    """Return the event time, or the broker's time if there is none, in nanoseconds."""
    found = event_time(dict(record.headers))
    return recorded_time(record) if found is None else found


TIMES: Final[dict[TimeSource, TimeOf]] = {TimeSource.EVENT: time_of, TimeSource.RECORDED: recorded_time}


Span = tuple[int, int]
"""The first offset, and the one after the last."""
_OFFSETS: Final = re.compile(
    r"(?P<topic>[^\[\]]+)\[(?P<partition>\d{1,9})\](?:=(?P<begin>\d{0,18})\.\.(?P<end>\d{0,18}))?"
)


@dataclass(frozen=True)
class Range:
    """The requested range; times are nanoseconds since 1970 by the broker's clock, `until` excluded.

    `offsets` has partitions with their first offset and the one after the last, -1 for an open end; None for all
    partitions.
    """

    since: int | None = None
    until: int | None = None
    offsets: Mapping[Partition, Span] | None = None

    def __str__(self) -> str:
        """Return a text that identifies the range."""
        named = sorted((self.offsets or {}).items())
        parts = [f"{topic}[{partition}]={begin}..{end}" for (topic, partition), (begin, end) in named]
        return " ".join([f"from {self.since} to {self.until}", *parts])


def read_offsets(texts: Sequence[str], topic: str, partitions: int) -> dict[Partition, Span] | None:
    """Parse `topic[3]=100..200`, `topic[3]=100..` or `topic[3]`. Raises `CommandError` (exit 2)."""
    found: dict[Partition, Span] = {}
    for text in texts:
        match = _OFFSETS.fullmatch(text.strip())
        if match is None:
            raise _bad_range(text, f"write it as {topic}[3]=100..200, {topic}[3]=100.. or {topic}[3]")
        place = (match["topic"], int(match["partition"]))
        begin, end = (int(match[name]) if match[name] else -1 for name in ("begin", "end"))
        if place[0] != topic:
            raise _bad_range(text, f"facts are on {topic}: name that topic, or another saga by --saga")
        if place[1] >= partitions:
            raise _bad_range(text, f"{topic} has the partitions 0 to {partitions - 1}")
        if place in found:
            raise _bad_range(text, "name each partition once")
        if -1 < end < begin:
            raise _bad_range(text, "the end comes before the beginning")
        found[place] = (begin, end)
    return found or None


async def find_spans(replay: TopicReader, asked: Range, held: Mapping[Partition, Span]) -> dict[Partition, Span]:
    """Return the offsets of a range; `held` are those that each partition has.

    Raises `KafkaUnavailableError`, and `CommandError` (exit 2) for a range that the topic does not have.
    """
    spans = {place: held[place] for place in asked.offsets or held if place in held}
    for place, wanted in (asked.offsets or {}).items():
        spans[place] = _within(place, wanted, held.get(place, (0, 0)))
    for bound, time in enumerate((asked.since, asked.until)):
        if time is None:
            continue
        firsts = await replay.first_at(dict.fromkeys(spans, -(-time // 1000000)))
        for place, (begin, end) in spans.items():
            first = min(firsts.get(place, end), end)
            spans[place] = (max(begin, first), end) if bound == 0 else (begin, max(begin, first))
    return spans


def _within(place: Partition, wanted: Span, held: Span) -> Span:
    begin = held[0] if wanted[0] < 0 else wanted[0]
    end = held[1] if wanted[1] < 0 else wanted[1]
    text = f"{place[0]}[{place[1]}]"
    if begin < held[0]:
        raise _bad_range(f"{text}={begin}..", f"the partition begins at offset {held[0]}: what was before it is gone")
    if end > held[1] or begin > held[1]:
        raise _bad_range(f"{text}={begin}..{end}", f"there are records before offset {held[1]} only")
    return begin, end


def _bad_range(text: str, do: str) -> CommandError:
    return CommandError("offsets-invalid", f"{text!r} names no range", "--offsets", do, ExitCode.USAGE)


_AHEAD: Final = 60 * 1_000_000_000
"""The tolerance in nanoseconds for a clock that is behind the broker's."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """A time in nanoseconds since 1970, by one of a record's two times; of one saga or all."""

    at: int
    clock: TimeSource
    saga_id: UUID | None = None

    def __str__(self) -> str:
        """Return a text that identifies the time."""
        return f"at {self.at} {self.clock} {self.saga_id or ''}".strip()


@dataclass(frozen=True)
class Request:
    """The options as given; `since` and `until` are --from and --to."""

    at: str | None = None
    clock: TimeSource | None = None
    saga_id: str | None = None
    since: str | None = None
    until: str | None = None
    offsets: Sequence[str] = ()
    resume: Path | None = None
    follow: bool = False

    def check(self) -> None:
        """Raise `CommandError` (exit 2) for options that exclude each other."""
        ranged = [
            name for name, given in (("--from", self.since), ("--to", self.until), ("--offsets", self.offsets)) if given
        ]
        as_of = [name for name, given in (("--clock", self.clock), ("--id", self.saga_id)) if given]
        if self.at is None and as_of:
            raise _usage(f"{as_of[0]} is of no use without --at", as_of[0], "add --at TIME, or leave it out")
        if self.at is not None and ranged:
            raise _usage(f"--at and {ranged[0]} exclude each other", ranged[0], "give one of them")
        if self.follow and (self.at is not None or ranged):
            other = "--at" if self.at is not None else ranged[0]
            raise _usage(f"--follow and {other} exclude each other", other, "give one of them")

    def as_of(self) -> AsOf | None:
        """Return the time of --at. Raises `CommandError` (exit 2)."""
        if self.at is None:
            return None
        at = read_time(self.at, "--at")
        if at > SystemClock().now() + _AHEAD:
            raise _usage(f"{format_time(at)} is in the future", "--at", "give a time in the past")
        saga_id = None
        if self.saga_id is not None and (saga_id := read_saga(self.saga_id.lower().encode())) is None:
            raise _usage(
                f"{self.saga_id!r} is not a saga id", "--id", "give the whole id, as `tradesaga list` shows it"
            )
        return AsOf(at, self.clock or TimeSource.RECORDED, saga_id)

    def range(self, topic: str, partitions: int) -> Range:
        """Return the requested range. Raises `CommandError` (exit 2)."""
        since = None if self.since is None else read_time(self.since, "--from")
        until = None if self.until is None else read_time(self.until, "--to")
        if since is not None and until is not None and until <= since:
            raise _usage("--to is not after --from", "--to", "give a later time")
        return Range(since, until, read_offsets(self.offsets, topic, partitions))


def _usage(what: str, where: str, do: str) -> CommandError:
    return CommandError("usage", what, where, do, ExitCode.USAGE)
