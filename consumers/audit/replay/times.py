"""Moments as people write them, in nanoseconds since 1970."""

import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final

from tradesaga.consumers.saga_log.reading import MAX_TIME, event_time
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.kafka.codec import Record

_SECOND: Final = 1_000_000_000
_ISO: Final = re.compile(
    r"(?P<whole>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?)(?:\.(?P<rest>\d{1,9}))?(?P<zone>Z|z|[+-]\d\d:?\d\d)", re.ASCII
)
_NANOSECONDS: Final = re.compile(r"\d{16,19}", re.ASCII)
"""Fewer digits would be milliseconds or seconds, and a moment in 1970."""


class Timeline(StrEnum):
    """Which of a record's two times counts."""

    EVENT = "event"
    RECORDED = "recorded"


TimeOf = Callable[[Record], int]


def read_moment(text: str, option: str) -> int:
    """Read ISO 8601 with a zone, up to nine decimals, or nanoseconds; raises `CommandError` (exit 2)."""
    if _NANOSECONDS.fullmatch(text):
        found = int(text)
    elif match := _ISO.fullmatch(text.strip()):
        try:
            whole = datetime.fromisoformat(match["whole"] + match["zone"].upper())
        except ValueError as error:
            raise _refusal(text, option, str(error)) from error
        found = int(whole.timestamp()) * _SECOND + int((match["rest"] or "0").ljust(9, "0"))
    else:
        do = "write it as 2026-11-23T14:03:07.120+01:00 or ...Z, with its zone, or as nanoseconds since 1970"
        raise _refusal(text, option, do)
    if not 0 <= found <= MAX_TIME:
        raise _refusal(text, option, "give a time between 1970 and 2262")
    return found


def recorded_time(record: Record) -> int:
    """Give the broker's time."""
    return record.recorded_ms * 1_000_000


def time_of(record: Record) -> int:
    """Give the time at which a fact happened; where it does not say, that at which it was recorded."""
    found = event_time(dict(record.headers))
    return recorded_time(record) if found is None else found


TIMES: Final[dict[Timeline, TimeOf]] = {Timeline.EVENT: time_of, Timeline.RECORDED: recorded_time}


def _refusal(text: str, option: str, do: str) -> CommandError:
    return CommandError("time-invalid", f"{text!r} is no moment", option, do, ExitCode.USAGE)
