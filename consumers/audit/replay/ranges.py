"""Which part of a topic: from offset to offset, partition by partition, as offsets or as times name it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.connections import Place
from tradesaga.infra.kafka.topic_reader import TopicReader

Span = tuple[int, int]
"""The first offset, and the one after the last."""
_OFFSETS: Final = re.compile(
    r"(?P<topic>[^\[\]]+)\[(?P<partition>\d{1,9})\](?:=(?P<begin>\d{0,18})\.\.(?P<end>\d{0,18}))?"
)


@dataclass(frozen=True)
class Range:
    """What is asked for; times are nanoseconds since 1970 by the broker's clock, `until` not included.

    `offsets` names partitions with their first offset and the one after the last, either of them -1 where it is open;
    without any, all partitions are meant.
    """

    since: int | None = None
    until: int | None = None
    offsets: Mapping[Place, Span] | None = None

    def __str__(self) -> str:
        """Name the range, the same for the same one."""
        named = sorted((self.offsets or {}).items())
        parts = [f"{topic}[{partition}]={begin}..{end}" for (topic, partition), (begin, end) in named]
        return " ".join([f"from {self.since} to {self.until}", *parts])


def read_offsets(texts: Sequence[str], topic: str, partitions: int) -> dict[Place, Span] | None:
    """Read `topic[3]=100..200`, `topic[3]=100..` or `topic[3]`; raises `CommandError` (exit 2)."""
    found: dict[Place, Span] = {}
    for text in texts:
        match = _OFFSETS.fullmatch(text.strip())
        if match is None:
            raise _refusal(text, f"write it as {topic}[3]=100..200, {topic}[3]=100.. or {topic}[3]")
        place = (match["topic"], int(match["partition"]))
        begin, end = (int(match[name]) if match[name] else -1 for name in ("begin", "end"))
        if place[0] != topic:
            raise _refusal(text, f"facts are on {topic}: name that topic, or another saga by --saga")
        if place[1] >= partitions:
            raise _refusal(text, f"{topic} has the partitions 0 to {partitions - 1}")
        if place in found:
            raise _refusal(text, "name each partition once")
        if -1 < end < begin:
            raise _refusal(text, "the end comes before the beginning")
        found[place] = (begin, end)
    return found or None


async def find_spans(replay: TopicReader, asked: Range, held: Mapping[Place, Span]) -> dict[Place, Span]:
    """Give the offsets that a range means; `held` are those that each partition has.

    Raises `KafkaUnavailableError`, and `CommandError` (exit 2) for a range that lies where the topic has nothing.
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


def _within(place: Place, wanted: Span, held: Span) -> Span:
    begin = held[0] if wanted[0] < 0 else wanted[0]
    end = held[1] if wanted[1] < 0 else wanted[1]
    text = f"{place[0]}[{place[1]}]"
    if begin < held[0]:
        raise _refusal(f"{text}={begin}..", f"the partition begins at offset {held[0]}: what was before it is gone")
    if end > held[1] or begin > held[1]:
        raise _refusal(f"{text}={begin}..{end}", f"there are records before offset {held[1]} only")
    return begin, end


def _refusal(text: str, do: str) -> CommandError:
    return CommandError("offsets-invalid", f"{text!r} names no range", "--offsets", do, ExitCode.USAGE)
