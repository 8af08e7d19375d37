"""What the fault run breaks things with, and the exchange that it trades at, do what they say."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.crew import Member
from tests.faults.exchange import Exchange, ask
from tests.faults.proxy import Bundle, Link
from tests.faults.stage import ExchangeProcess
from tests.waiting import until
from tradesaga.infra.errors import CommandError


@asynccontextmanager
async def echoing() -> AsyncGenerator[tuple[Link, list[bytes]]]:
    """Give a link to a server that answers everything with `+`, and what that server has heard."""
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            heard.append(data)
            writer.write(b"+")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    link = Link("test", server.sockets[0].getsockname()[1])
    await link.start()
    try:
        yield link, heard
    finally:
        await link.stop()
        server.close()


async def test_a_link_carries_both_ways() -> None:
    """Nothing is changed on the way, and what is late is only late."""
    async with echoing() as (link, heard):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        assert await reader.readexactly(1) == b"+"
        link.delay = 0.1
        began = time.monotonic()
        writer.write(b"again")
        assert await reader.readexactly(1) == b"+"
        assert time.monotonic() - began >= 0.2
        assert heard == [b"hello", b"again"]
        writer.close()


async def test_a_commit_is_passed_on_and_its_answer_is_not() -> None:
    """The server has heard the commit; the client sees its connection end."""
    async with echoing() as (link, heard):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        link.swallow_commits(1)
        writer.write(b"Q\0\0\0\x0cCOMMIT;\0")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        assert heard == [b"Q\0\0\0\x0cCOMMIT;\0"]
        assert link.swallowed == 1
        writer.close()


async def test_a_one_way_cut_lets_words_in_and_answers_not_out() -> None:
    """The answer that was held back comes once the link is healed."""
    async with echoing() as (link, heard):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        link.stall("to_client")
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.2)
        assert heard == [b"hello"]
        link.heal()
        assert await asyncio.wait_for(reader.readexactly(1), 2) == b"+"
        writer.close()


async def test_a_cut_link_ends_connections_and_takes_none() -> None:
    """Both the old connection and a new one end; after healing there is a way again."""
    async with echoing() as (link, _):
        old, old_writer = await asyncio.open_connection("127.0.0.1", link.port)
        old_writer.write(b"hello")
        await old.readexactly(1)
        link.cut()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await old.readexactly(1)
        new, new_writer = await asyncio.open_connection("127.0.0.1", link.port)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await new.readexactly(1)
        link.heal()
        healed, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        assert await healed.readexactly(1) == b"+"
        for each in (old_writer, new_writer, writer):
            each.close()


async def test_a_bundle_meets_one_fate() -> None:
    """All ways of a process to the brokers end at once, and one of them may be cut alone."""
    async with echoing() as (first, _), echoing() as (second, _):
        bundle = Bundle((first, second))
        assert bundle.addresses == f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        bundle.cut()
        assert [await _answers(link) for link in bundle.links] == [False, False]
        bundle.heal()
        first.cut()
        assert [await _answers(link) for link in bundle.links] == [False, True]
        bundle.heal()
        bundle.stall()
        assert [await _answers(link) for link in bundle.links] == [False, False]


async def _answers(link: Link) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        writer.write(b"hello")
        return await asyncio.wait_for(reader.read(1), 0.2) == b"+"
    except (TimeoutError, ConnectionError):
        return False
    finally:
        writer.transport.abort()


def place(key: str, *, seconds: float = 1.0, attempt: int = 1) -> dict[str, object]:
    """Compose an order that is void after some seconds."""
    expires = int((time.time() + seconds) * 1e9)
    asked = {"kind": "place", "key": key, "attempt": attempt, "expires": expires, "mode": "", "ends": "filled"}
    return {**asked, "delay": 0.0}


async def test_the_exchange_takes_an_order_once_and_for_ever(tmp_path: Path) -> None:
    """The same key is the same order, after a restart too; every call is counted."""
    first = Exchange(tmp_path / "ledger")
    assert await first.answer(place("a")) == {"state": "open"}
    second = Exchange(tmp_path / "ledger")
    assert await second.answer(place("a", attempt=2)) == {"state": "filled"}
    told = await second.answer({"kind": "dump"})
    assert told == {"orders": [("a", "filled", 1)], "calls": [("place", "a", 1), ("place", "a", 2)]}


@pytest.mark.parametrize("seconds", [-0.1, 300.0])
async def test_the_exchange_refuses_what_is_void_or_from_a_wrong_clock(tmp_path: Path, seconds: float) -> None:
    """An expiry that has passed, or that no attempt can have, is refused without an effect."""
    exchange = Exchange(tmp_path / "ledger")
    assert await exchange.answer(place("a", seconds=seconds)) == {"state": "expired"}
    assert (await exchange.answer({"kind": "dump"}))["orders"] == []


async def test_an_order_that_was_cancelled_first_is_never_taken(tmp_path: Path) -> None:
    """The cancellation of an unknown order is kept, and reported."""
    exchange = Exchange(tmp_path / "ledger")
    assert await exchange.answer({"kind": "cancel", "key": "a", "attempt": 1}) == {"state": "cancelled"}
    assert await exchange.answer(place("a")) == {"state": "cancelled"}
    assert (await exchange.answer({"kind": "feed", "after": 0}))["reports"] == [(1, "a", "cancelled")]


async def test_an_exchange_that_somebody_else_has_killed_ends_the_run(tmp_path: Path) -> None:
    """One that the run itself has killed does not, and comes back with what it knew."""
    exchange = ExchangeProcess(tmp_path)

    async def ended() -> bool:
        exchange.check()
        return False

    await exchange.start()
    try:
        assert (await ask(exchange.address, **place("a")))["state"] == "open"
        await exchange.kill()
        exchange.check()
        await exchange.start()
        assert (await ask(exchange.address, kind="query", key="a", attempt=2))["state"] == "filled"
        running = psutil.Process(exchange.pid)
        running.kill()
        with pytest.raises(CommandError, match=f"process {running.pid}, has ended by itself with -9"):
            await until(ended)
    finally:
        await exchange.end()


async def test_a_stopped_process_costs_the_others_nothing_when_the_run_loses_its_parent(tmp_path: Path) -> None:
    """The kernel hangs up on a group that is left alone while one of it is stopped: who is stopped has its own."""
    exchange, member = ExchangeProcess(tmp_path), Member("idle1", "idle", Bundle(()), Link("none", 0), tmp_path)
    try:
        await exchange.start()
        await member.start()
        assert exchange.pid is not None
        assert member.process is not None
        assert len({os.getsid(exchange.pid), os.getsid(member.process.pid), os.getsid(0)}) == 3
    finally:
        await exchange.end()
        member.send(signal.SIGKILL)
        if member.process is not None:
            await member.process.wait()
