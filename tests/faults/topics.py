"""The checks of what is on the topics: against the outbox, against the lanes, against what the run has planted."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

import orjson

from tests.faults.evidence import COMMANDS, DEAD, EVENTS, Evidence
from tests.faults.load import OURS

_UNDONE: Final = {
    b"drill.released.v1": "reserve",
    b"drill.refunded.v1": "charge",
    b"drill.order-cancelled.v1": "order",
}


def compensations(seen: Evidence) -> dict[str, list[str]]:
    """Give the steps that each saga took back, in the order in which that was first said."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for record in seen.records:
        step = _UNDONE.get(record.header("ce_type")) if record.topic == EVENTS else None
        saga_id = record.header("ce_correlationid").decode("utf-8", "replace")
        if step is not None and step not in found[saga_id]:
            found[saga_id].append(step)
    return found


def outbox_is_published(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I7: each outbox row is on its topic, first in the order of its lane; nothing is there without a row."""
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for record in seen.records:
        name = (record.topic, record.header("ce_id").decode("utf-8", "replace"))
        first.setdefault(name, (record.partition, record.offset))
    rows = [row for row in seen.tables["outbox"] if row["topic"] in {EVENTS, COMMANDS}]

    def find() -> Iterator[str]:
        known = {(row["topic"], row["id"]) for row in rows}
        for row in rows:
            if (row["topic"], row["id"]) not in first:
                yield f"row {row['seq']} of lane {row['lane']} ({row['type']} of {row['key']}) is on no topic"
        for record in seen.records:
            name = (record.topic, record.header("ce_id").decode("utf-8", "replace"))
            if record.topic != DEAD and name not in known and not _is_ours(record.header("ce_source")):
                yield f"{record.topic}[{record.partition}]@{record.offset} has no row in the outbox"
        yield from _disorder(rows, first)

    return len(rows), find()


def _disorder(rows: list[dict[str, Any]], first: dict[tuple[str, str], tuple[int, int]]) -> Iterator[str]:
    """Find rows of one lane and key that reached their topic in another order than they were written."""
    last: dict[tuple[int, str, str], int] = {}
    # An answer that is given again is the same record again, if need be on another lane, and in any order.
    lanes: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        lanes[row["topic"], row["id"]].add(row["lane"])
    seen = {name for name, found in lanes.items() if len(found) > 1}
    for row in sorted(rows, key=lambda row: (row["lane"], row["seq"])):
        name = (row["topic"], row["id"])
        if name not in first or name in seen:
            continue
        seen.add(name)
        line = (row["lane"], row["topic"], row["key"])
        offset = first[name][1]
        if offset < last.get(line, -1):
            yield f"{row['type']} of {row['key']} overtook an earlier row of lane {row['lane']}"
        last[line] = max(offset, last.get(line, -1))


def offsets_agree(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I9: every lane has read its partition and published its rows to the end; Kafka was told of no more than that."""
    lanes = seen.tables["lanes"]
    counts = Counter(row["lane"] for row in seen.tables["outbox"])

    def find() -> Iterator[str]:
        for lane in lanes:
            name = f"{lane['group']} {lane['topic']}[{lane['partition']}]"
            end = seen.ends.get((lane["topic"], lane["partition"]))
            if end is not None and lane["next_offset"] != end:
                yield f"{name} is at offset {lane['next_offset']}, the partition ends at {end}"
            if lane["published_seq"] != lane["last_seq"]:
                yield f"{name} has published {lane['published_seq']} of {lane['last_seq']} rows"
            if counts[lane["id"]] != lane["last_seq"]:
                yield f"{name} has {counts[lane['id']]} rows, its last number is {lane['last_seq']}"
            committed = seen.committed.get((lane["group"], lane["topic"], lane["partition"]), 0)
            if end is not None and committed > lane["next_offset"]:
                yield f"{name}: Kafka was told {committed}, the database has {lane['next_offset']}"

    return len(lanes), find()


def dead_letters_are_planted(seen: Evidence) -> tuple[int, Iterator[str]]:
    """I13: each poison is in the dead letters, once for each group that met it, and nothing else is."""
    notes = seen.notes
    letters = [orjson.loads(row["headers"]) for row in seen.tables["outbox"] if row["topic"] == DEAD]
    published = {_place(dict(record.headers)) for record in seen.records if record.topic == DEAD}

    def find() -> Iterator[str]:
        for place, count in Counter(_place(letter) for letter in letters).items():
            if count > 1 and not notes.mixed_versions:
                yield f"{place} is in the dead letters {count} times"
            if place not in published:
                yield f"{place} was never put on the dead letters"
        found = {str(letter.get("ce_id", "")) for letter in letters}
        yield from (
            f"the {kind} {name} is not in the dead letters"
            for name, kind in notes.planted.items() - _pairs(notes.planted, found)
        )
        for letter in letters:
            if not _expected(seen, letter):
                yield f"{_place(letter)} is in the dead letters: {letter.get('ts_dlt_error_message')}"

    return len(notes.planted), find()


def _pairs(planted: dict[str, str], found: set[str]) -> set[tuple[str, str]]:
    return {(name, kind) for name, kind in planted.items() if name in found}


def _expected(seen: Evidence, letter: dict[str, Any]) -> bool:
    """Say whether a dead letter is one that the run has planted, or that follows from one."""
    if str(letter.get("ce_id", "")) in seen.notes.planted or _is_ours(letter.get("ce_source", "").encode()):
        return True
    if letter.get("ts_dlt_error_type") == "version":
        return seen.notes.mixed_versions
    return letter.get("ce_correlationid") in seen.notes.strangers


def _place(headers: dict[str, Any]) -> tuple[str, ...]:
    """Give where a dead letter's original is, and which group did not understand it."""
    found = (headers.get(name, "") for name in ("ts_dlt_topic", "ts_dlt_partition", "ts_dlt_offset", "ts_dlt_group"))
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in found)


def _is_ours(source: bytes) -> bool:
    return source.startswith(OURS.encode())
