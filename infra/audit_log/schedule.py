"""The audit log's retention: `7y`, `18m`, `90d` or `off`, and by saga: `7y, trade=10y, signals=off`."""

import re
from calendar import monthrange
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

_PERIOD: Final = re.compile(r"([1-9][0-9]{0,2}(?=y)|[1-9][0-9]{0,3}(?=[md]))([ymd])")
_MONTHS: Final = 12
FORMAT_HELP: Final = "write it as 7y, 18m, 90d or off, and by saga as 7y, trade=10y"


@dataclass(frozen=True, slots=True)
class Period:
    """Calendar months and days."""

    months: int
    days: int
    text: str

    def after(self, moment: datetime) -> datetime:
        """Return `moment` plus this period; a day that the month lacks becomes its last day."""
        years, month = divmod(moment.month - 1 + self.months, _MONTHS)
        year = moment.year + years
        day = min(moment.day, monthrange(year, month + 1)[1])
        return moment.replace(year=year, month=month + 1, day=day) + timedelta(days=self.days)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long records are kept; None is for ever."""

    rest: Period | None = None
    sagas: Mapping[str, Period | None] = field(default_factory=dict[str, Period | None])

    def due(self, moment: datetime, sagas: Iterable[str]) -> datetime | None:
        """Return until when records of `moment` are kept, by the longest period of these sagas; None is for ever."""
        periods = [self.sagas.get(saga, self.rest) for saga in sagas] or [self.rest]
        moments = [period.after(moment) for period in periods if period is not None]
        return max(moments) if len(moments) == len(periods) else None


def parse_schedule(text: str) -> Schedule:
    """Parse the setting. Raises `ValueError` that explains its format."""
    rest: Period | None = None
    sagas: dict[str, Period | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, period = part.rpartition("=")
        if name.strip():
            sagas[name.strip()] = _period(period.strip())
        elif equals:
            raise ValueError(FORMAT_HELP)
        else:
            rest = _period(part)
    return Schedule(rest, sagas)


def _period(text: str) -> Period | None:
    if text == "off":
        return None
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise ValueError(FORMAT_HELP)
    count, unit = int(found[1]), found[2]
    return Period(count * {"y": 12, "m": 1, "d": 0}[unit], count if unit == "d" else 0, text)
