"""How long the audit log is kept, as the setting says it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradesaga.infra.audit_log.schedule import parse_schedule
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import load_settings


def at(text: str) -> datetime:
    """Give a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "sagas", "due"),
    [
        ("7y", ["trade"], "2026-02-01"),
        ("18m", ["trade"], "2020-08-01"),
        ("90d", ["trade"], "2019-05-02"),
        ("7y, trade=10y", ["trade"], "2029-02-01"),
        ("7y, trade=10y", ["other"], "2026-02-01"),
        ("7y, trade=10y", ["trade", "other"], "2029-02-01"),
        ("10y,trade=7y", ["trade", "other"], "2029-02-01"),
        ("7y", [], "2026-02-01"),
        ("off", ["trade"], None),
        ("", ["trade"], None),
        ("trade=7y", ["trade"], "2026-02-01"),
        ("trade=7y", ["trade", "other"], None),
        ("7y, trade=off", ["trade", "other"], None),
    ],
)
def test_a_month_is_due_when_its_most_demanding_saga_lets_it_go(
    schedule: str, sagas: list[str], due: str | None
) -> None:
    """January 2019, of which all has been recorded by its end."""
    assert parse_schedule(schedule).due(at("2019-02-01"), sagas) == (at(due) if due else None)


@pytest.mark.parametrize(("schedule", "due"), [("1m", "2020-02-29"), ("1y", "2021-01-31"), ("13m", "2021-02-28")])
def test_a_day_that_its_month_has_not_is_the_last(schedule: str, due: str) -> None:
    """The end of January, a month on."""
    assert parse_schedule(schedule).due(at("2020-01-31"), ["trade"]) == at(due)


@pytest.mark.parametrize("text", ["7", "y7", "0y", "-1y", "7y 6m", "seven years", "=7y", "trade=", "1.5y", "99999d"])
def test_what_is_no_schedule_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to write one, before anything starts."""
    with pytest.raises(ValueError, match="7y, 18m, 90d or off"):
        parse_schedule(text)
    monkeypatch.setenv("TRADESAGA_AUDIT_RETENTION", text)
    with pytest.raises(CommandError, match="TRADESAGA_AUDIT_RETENTION is not valid") as refused:
        load_settings()
    assert refused.value.exit_code is ExitCode.USAGE


@given(st.integers(1, 999), st.sampled_from("ymd"), st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - made aware below
def test_nothing_is_due_before_its_time(count: int, unit: str, moment: datetime) -> None:
    """Any period leads later, and a longer one no earlier."""
    moment = moment.replace(tzinfo=UTC)
    due = parse_schedule(f"{count}{unit}").due(moment, ["trade"])
    assert due is not None
    assert due > moment
    longer = parse_schedule(f"{min(count + 1, 999)}{unit}").due(moment, ["trade"])
    assert longer is not None
    assert longer >= due
