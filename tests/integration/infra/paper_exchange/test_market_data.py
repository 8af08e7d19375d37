"""Prices, books and bars as anybody can read them, and the account's lists."""

from typing import Any

from tests.integration.infra.paper_exchange.process import PaperProcess


async def test_book_thins_out_as_it_is_taken_and_is_new_with_the_next_bar(paper: PaperProcess) -> None:
    """What was taken is gone from depth and book ticker, until the next bar."""
    before = (await paper.send("GET", "depth?symbol=EURUSD")).body
    await paper.place("take", 1400)
    after = (await paper.send("GET", "depth?symbol=EURUSD&limit=1")).body
    await paper.place("empty", 600)
    empty = (await paper.send("GET", "ticker/bookTicker?symbol=EURUSD")).body
    nothing = await paper.place("nothing", 100)
    await paper.step()
    anew = (await paper.send("GET", "depth?symbol=EURUSD")).body

    assert before["asks"] == [["1.10001000", "1000.00000000"], ["1.10002000", "1000.00000000"]]
    assert before["bids"] == [["1.09999000", "1000.00000000"], ["1.09998000", "1000.00000000"]]
    assert after["asks"] == [["1.10002000", "600.00000000"]]
    assert (empty["askQty"], empty["bidQty"]) == ("0.00000000", "1000.00000000")
    assert (nothing.body["status"], nothing.body["executedQty"]) == ("EXPIRED", "0.00000000")
    assert (anew["asks"], anew["bids"]) == (before["asks"], before["bids"])


async def test_klines_are_those_closed_so_far(paper: PaperProcess) -> None:
    """A bar shows once it is closed; start, end and limit choose among those."""
    first = (await paper.send("GET", "klines?symbol=EURUSD&interval=1h")).body
    await paper.step(3)
    every = (await paper.send("GET", "klines?symbol=EURUSD&interval=1h")).body
    newest = (await paper.send("GET", "klines?symbol=EURUSD&interval=1h&limit=2")).body
    oldest = (await paper.send("GET", f"klines?symbol=EURUSD&interval=1h&limit=2&startTime={every[1][0]}")).body

    assert [bar[4] for bar in first] == ["1.10000000"]
    assert [bar[4] for bar in every] == ["1.10000000", "1.10000000", "1.09000000", "1.12000000"]
    assert (newest, oldest) == (every[2:], every[1:3])


async def test_tape_starts_over_at_its_end(paper: PaperProcess) -> None:
    """After the last bar comes the first; the history begins anew with it."""
    await paper.step(4)

    assert (await paper.send("GET", "ticker/price?symbol=EURUSD")).body["price"] == "1.10000000"
    assert len((await paper.send("GET", "klines?symbol=EURUSD&interval=1h")).body) == 1


async def test_tickers_answer_for_one_for_some_and_for_all(paper: PaperProcess) -> None:
    """One symbol gives an object, a list or none a list."""
    one = (await paper.send("GET", "ticker/24hr?symbol=EURUSD")).body
    some = (await paper.send("GET", "ticker/price?symbols=%5B%22EURUSD%22%5D")).body
    every = (await paper.send("GET", "ticker/price")).body
    average = (await paper.send("GET", "avgPrice?symbol=EURUSD")).body
    unknown = await paper.send("GET", "ticker/price?symbols=%5B%22NONE%22%5D")

    assert (one["lastPrice"], average["price"]) == ("1.10000000", "1.10000000")
    assert some == every == [{"symbol": "EURUSD", "price": "1.10000000"}]
    assert unknown.code == -1121


async def test_all_resting_orders_can_be_cancelled_at_once(paper: PaperProcess) -> None:
    """DELETE openOrders empties the book of an account, and says so where there is nothing."""
    for name in ("one", "two"):
        await paper.place(name, 100, "1.05")

    cancelled = await paper.call("DELETE", "openOrders", symbol="EURUSD")
    nothing = await paper.call("DELETE", "openOrders", symbol="EURUSD")

    assert [one["status"] for one in cancelled.body] == ["CANCELED", "CANCELED"]
    assert nothing.code == -2011


async def test_history_is_paged_by_id_and_time(paper: PaperProcess) -> None:
    """Orders and trades: the newest without a start, from an id or a time on with one, one order's trades alone."""
    placed = [(await paper.place(f"n{number}", 100)).body for number in range(4)]
    ids = [one["orderId"] for one in placed]

    async def orders(**values: Any) -> list[int]:
        return [one["orderId"] for one in (await paper.call("GET", "allOrders", symbol="EURUSD", **values)).body]

    trades = (await paper.call("GET", "myTrades", symbol="EURUSD", orderId=ids[2])).body
    assert await orders() == ids
    assert await orders(limit=2) == ids[2:]
    assert await orders(orderId=ids[1], limit=2) == ids[1:3]
    assert await orders(startTime=placed[1]["transactTime"]) == [
        one["orderId"] for one in placed if one["transactTime"] >= placed[1]["transactTime"]
    ]
    assert await orders(startTime=0, endTime=1) == []
    assert [one["orderId"] for one in trades] == [ids[2]]


async def test_answers_are_as_short_as_asked_for(paper: PaperProcess) -> None:
    """ACK names the order, RESULT shows it, FULL adds its fills."""
    bodies = [(await paper.place(kind, 100, newOrderRespType=kind)).body for kind in ("ACK", "RESULT", "FULL")]

    assert "status" not in bodies[0]
    assert (bodies[1]["status"], "fills" in bodies[1]) == ("FILLED", False)
    assert [fill["qty"] for fill in bodies[2]["fills"]] == ["100.00000000"]


async def test_order_without_a_name_gets_one(paper: PaperProcess) -> None:
    """An order that brings no client order id is given one, by which it is found."""
    name = (await paper.place("x", 100, newClientOrderId=None)).body["clientOrderId"]

    assert (await paper.call("GET", "order", symbol="EURUSD", origClientOrderId=name)).body["status"] == "FILLED"


async def test_nobody_sees_another_account(paper: PaperProcess) -> None:
    """Orders, trades and cancellations are each account's own, even by the venue's order id."""
    await paper.admin("POST", "accounts", {"name": "other", "key": "k2", "secret": "s2", "balances": {"USD": "1"}})
    mine = (await paper.place("mine", 100, "1.05")).body["orderId"]
    other: dict[str, Any] = {"key": "k2", "secret": "s2", "symbol": "EURUSD"}

    assert (await paper.call("GET", "order", orderId=mine, **other)).code == -2013
    assert (await paper.call("DELETE", "order", orderId=mine, **other)).code == -2011
    assert (await paper.call("GET", "allOrders", **other)).body == []
    assert (await paper.call("GET", "openOrders", **other)).body == []
