"""The strategy's arithmetic and its configuration, without any server."""

import json
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crossovers import crossovers
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.venues.klines import Kline
from tradesaga.producers.strategy.config import Crossover, StrategyConfig, read_strategies, validate_strategies
from tradesaga.producers.strategy.market import SignalMaker, make_record
from tradesaga.schemas.envelope import Envelope
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.messages.trade import Side

PRICES = st.lists(
    st.decimals(min_value=Decimal("0.00001"), max_value=Decimal(5), places=5), min_size=0, max_size=60
) | st.lists(st.sampled_from([Decimal(1), Decimal("1.1"), Decimal(2)]), max_size=60)


def oracle(prices: list[Decimal], fast: int, slow: int) -> list[tuple[int, Side]]:
    """Compute both averages anew for each bar, as fractions, and compare neighbours that differ."""
    found: list[tuple[int, Side]] = []
    before = 0
    for at in range(slow - 1, len(prices)):
        window = [Fraction(price) for price in prices[at - slow + 1 : at + 1]]
        difference = sum(window[-fast:]) / fast - sum(window) / slow
        sign = (difference > 0) - (difference < 0)
        if sign and before and sign != before:
            found.append((at, Side.BUY if sign > 0 else Side.SELL))
        before = sign or before
    return found


@given(PRICES, st.integers(1, 6), st.integers(1, 8))
def test_crossings_are_those_of_the_definition(prices: list[Decimal], fast: int, more: int) -> None:
    """Bar by bar and from scratch give the same crossings."""
    assert crossovers(prices, fast, fast + more) == oracle(prices, fast, fast + more)


@given(PRICES, st.integers(1, 4), st.integers(1, 4))
def test_crossings_alternate(prices: list[Decimal], fast: int, more: int) -> None:
    """A buy follows a sell and a sell a buy."""
    sides = [side for _, side in crossovers(prices, fast, fast + more)]
    assert all(one is not other for one, other in pairwise(sides))


@pytest.mark.parametrize(("fast", "slow"), [(0, 2), (2, 2), (3, 2)])
def test_windows_must_differ(fast: int, slow: int) -> None:
    """A fast window that is none, or not shorter than the slow one, is refused."""
    with pytest.raises(ValueError, match="window"):
        Crossover(fast, slow)


def plan(**changes: Any) -> StrategyConfig:
    """Give a plan with windows of one and two bars."""
    fields = {"name": "trend", "symbol": "EUR/USD", "fast": 1, "slow": 2, "quantity": "10"}
    return StrategyConfig.model_validate({**fields, **changes})


def bars(*closes: str, first: int = 0) -> list[Kline]:
    """Give bars of ten milliseconds."""
    return [Kline(10 * at, 10 * at + 9, Decimal(close)) for at, close in enumerate(closes, first)]


def test_a_restart_repeats_the_ids() -> None:
    """What a run signals live, the next one signals again for the bars it catches up on, byte for byte."""
    series = bars("3", "2", "1", "2", "3", "2", "1", "2")
    live = SignalMaker(plan(), Decimal("0.01"))
    assert live.warm_up(series[:3]) == []
    raised = [signal for bar in series[3:] for signal in live.take(bar)]
    again = SignalMaker(plan(catch_up=5), Decimal("0.01"))
    assert again.warm_up(series) == raised
    assert (live.live, live.signals, again.signals) == (5, 3, 3)
    assert [(each.signal_id, each.side) for each in raised] == [
        ("EUR/USD-30-1-2", Side.BUY), ("EUR/USD-50-1-2", Side.SELL), ("EUR/USD-70-1-2", Side.BUY),
    ]  # fmt: skip
    assert raised[0].observed_at == 39_000_000


@pytest.mark.parametrize(("closes", "limit"), [(("3", "2", "2.015"), "1.91"), (("2", "3", "2.015"), "2.12")])
def test_limits_lie_away_from_the_market(closes: tuple[str, ...], limit: str) -> None:
    """Five per cent below for a buy, above for a sell, in whole ticks, rounded away from the close."""
    feed = SignalMaker(plan(order_type="LIMIT", offset_bps=500, catch_up=1), Decimal("0.01"))
    (raised,) = feed.warm_up(bars(*closes))
    assert raised.limit_price == Decimal(limit)


def test_a_record_is_a_cloud_event_that_reads_back() -> None:
    """The key is the strategy; ids are the signal's own, so that a repeated signal is the same event."""
    feed = SignalMaker(plan(catch_up=1), Decimal("0.01"))
    (raised,) = feed.warm_up(bars("3", "2", "4"))
    key, value, headers = make_record(raised)
    envelope = Envelope.from_headers(headers)
    assert key == b"trend"
    assert SignalRaised.from_wire(value) == raised
    assert envelope.type == "trade.signal-raised.v1"
    assert envelope.id == envelope.saga_id == Envelope.from_headers(make_record(raised)[2]).id


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"fast": 20}, "fast must be less than slow"),
        ({"offset_bps": 5}, "offset_bps belongs to LIMIT orders"),
        ({"quantity": "0"}, "above zero"),
        ({"quantity": 1.5}, "quantity"),
        ({"symbol": "EURUSD"}, "symbol"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_plans_are_refused(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    """A file's mistake is named with its entry, and the exit code is that of wrong usage."""
    good = {"name": "trend", "symbol": "EUR/USD", "fast": 5, "slow": 20, "quantity": "10"}
    file = tmp_path / "plans.json"
    file.write_text(json.dumps([good, {**good, "name": "other", **change}]))
    with pytest.raises(CommandError, match=what) as raised:
        read_strategies(file)
    assert raised.value.exit_code is ExitCode.USAGE
    assert "entry 1" in str(raised.value)


@pytest.mark.parametrize(("text", "what"), [("{", "not JSON"), ("{}", "not a list"), ("[]", "nothing to trade")])
def test_wrong_files_are_refused(tmp_path: Path, text: str, what: str) -> None:
    """A file that is not a list of strategies is refused with the reason."""
    file = tmp_path / "plans.json"
    file.write_text(text)
    with pytest.raises(CommandError, match=what):
        read_strategies(file)
    with pytest.raises(CommandError, match="cannot be read") as raised:
        read_strategies(tmp_path / "missing.json")
    assert raised.value.exit_code is ExitCode.NOT_FOUND


def test_plans_that_would_share_ids_are_refused() -> None:
    """Two plans of one name, symbol and windows raise signals under the same ids."""
    entry = {"name": "trend", "symbol": "EUR/USD", "quantity": "10"}
    with pytest.raises(CommandError, match="given twice"):
        validate_strategies([entry, {**entry, "quantity": "20"}], "test")
