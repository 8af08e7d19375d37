"""ccxt alone, unchanged, trades on the venue's process: its unified calls, and ccxt.pro's streams."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest

from tests.integration.infra.paper_exchange.process import KEY, SECRET, PaperProcess, listens, soon


def settings(url: str) -> Any:
    """Point ccxt's Binance at the venue; nothing else of it is changed."""
    stream = url.replace("http", "ws", 1)
    sockets = {"spot": f"{stream}/ws", "ws-api": {"spot": f"{stream}/ws-api/v3"}}
    return {
        "apiKey": KEY,
        "secret": SECRET,
        "enableRateLimit": False,
        "options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False, "fetchMargins": False},
        "urls": {"api": {"public": f"{url}/api/v3", "private": f"{url}/api/v3", "ws": sockets}},
    }


@pytest.fixture
def real_prices(tmp_path: Path) -> Any:
    """Run a venue on the shipped series, holding still."""
    process = PaperProcess(tmp_path, {"speed": 0.0}).start()
    yield process
    process.stop()


@pytest.fixture
async def desk(real_prices: PaperProcess) -> AsyncIterator[Any]:
    """Give ccxt's client of the desk account."""
    exchange: Any = ccxt.async_support.binance(settings(real_prices.url))
    yield exchange
    await exchange.close()


async def test_ccxt_trades_from_markets_to_balances(desk: Any) -> None:
    """Markets, prices, orders of each kind, trades and balances, all through ccxt's unified calls."""
    markets = await desk.load_markets()
    assert set(markets) == {"EUR/USD", "GOOG/USD"}
    assert (await desk.fetch_ticker("EUR/USD"))["last"] == pytest.approx(1.09)
    assert len(await desk.fetch_ohlcv("GOOG/USD", "1d")) == 101
    book = await desk.fetch_order_book("EUR/USD")
    assert book["bids"][0][0] < book["asks"][0][0]

    bought = await desk.create_order("EUR/USD", "market", "buy", 1000)
    assert (bought["status"], bought["filled"]) == ("closed", 1000)
    assert bought["fees"] == [{"currency": "USD", "cost": pytest.approx(1.09001)}]
    resting = await desk.create_order("GOOG/USD", "limit", "buy", 10, 150, {"clientOrderId": "rest-1"})
    assert [one["clientOrderId"] for one in await desk.fetch_open_orders("GOOG/USD")] == ["rest-1"]
    assert (await desk.fetch_balance())["USD"]["used"] == pytest.approx(1501.5)
    assert (await desk.cancel_order(resting["id"], "GOOG/USD"))["status"] == "canceled"
    assert (await desk.fetch_order(resting["id"], "GOOG/USD"))["status"] == "canceled"
    part = await desk.create_order("EUR/USD", "limit", "buy", 500_000, 2, {"timeInForce": "IOC"})
    assert (part["status"], part["filled"]) == ("expired", 99_000)

    assert sum(trade["amount"] for trade in await desk.fetch_my_trades("EUR/USD")) == 100_000
    assert len(await desk.fetch_orders("EUR/USD")) == 2
    assert (await desk.fetch_balance())["EUR"]["total"] == 1_000_100_000


async def test_ccxt_names_each_refusal(desk: Any) -> None:
    """Refusals carry Binance's codes, so that ccxt raises what it raises for Binance."""
    await desk.load_markets()
    await desk.create_order("EUR/USD", "market", "buy", 100, None, {"clientOrderId": "once"})

    with pytest.raises(ccxt.InvalidOrder, match="Duplicate"):
        await desk.create_order("EUR/USD", "market", "buy", 100, None, {"clientOrderId": "once"})
    with pytest.raises(ccxt.OrderNotFound):
        await desk.fetch_order("4711", "EUR/USD")
    with pytest.raises(ccxt.OrderNotFound):
        await desk.cancel_order("4711", "EUR/USD")
    await desk.create_order("GOOG/USD", "limit", "buy", 9_000, 100_000, {"timeInForce": "GTC"})
    with pytest.raises(ccxt.InsufficientFunds):
        await desk.create_order("GOOG/USD", "limit", "buy", 10_000, 100_000, {"timeInForce": "GTC"})
    with pytest.raises(ccxt.InvalidNonce):
        await desk.create_order("EUR/USD", "market", "buy", 100, None, {"timestamp": 1_500_000_000_000})
    desk.secret = "wrong"
    with pytest.raises(ccxt.AuthenticationError):
        await desk.fetch_balance()


async def test_ccxt_pro_streams_orders_trades_and_balances(real_prices: PaperProcess) -> None:
    """ccxt.pro subscribes by itself and hears of an order placed elsewhere."""
    stream: Any = ccxt.pro.binance(settings(real_prices.url))
    desk: Any = ccxt.async_support.binance(settings(real_prices.url))
    try:
        hearing = [
            asyncio.create_task(call)
            for call in (stream.watch_orders("EUR/USD"), stream.watch_my_trades("EUR/USD"), stream.watch_balance())
        ]
        await soon(lambda: listens(real_prices))
        await desk.create_order("EUR/USD", "market", "sell", 30_000)
        orders, trades, balance = await asyncio.wait_for(asyncio.gather(*hearing), 60)
    finally:
        await stream.close()
        await desk.close()

    assert (orders[-1]["status"], orders[-1]["filled"]) == ("closed", 30_000)
    assert [trade["amount"] for trade in trades] == [20_000, 10_000]
    assert balance["EUR"]["total"] == 1_000_000_000 - 30_000
