"""The strategy's process on a real venue and a real broker: every bar once, in order, over a restart."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.broker import read_topic
from tests.crossovers import crossovers
from tests.integration.infra.paper_exchange.process import PaperProcess, small_market
from tests.waiting import until
from tradesaga.infra.kafka.topics import ensure_topics
from tradesaga.schemas.messages.signals import SignalRaised
from tradesaga.schemas.topics import SIGNALS

pytestmark = pytest.mark.stack
Strategy = Callable[..., "subprocess.Popen[str]"]
CLOSES = [f"1.{10 + 7 * (at % 5) + 3 * (at % 7):02}000" for at in range(60)]
FIRST = 20
"""The bars that have closed when the venue starts."""


def market(folder: Path) -> dict[str, Any]:
    """Configure a market of 60 hours that moves up and down, 20 of them over."""
    config = small_market(folder)
    rows = [f"2020-01-{1 + at // 24:02} {at % 24:02}:00:00,{c},{c},{c},{c},1" for at, c in enumerate(CLOSES)]
    (folder / "tape.csv").write_text("\n".join([",Open,High,Low,Close,Volume", *rows]) + "\n")
    return {**config, "listings": [{**config["listings"][0], "first_bar": FIRST - 1}]}


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[PaperProcess]:
    """Run the venue, holding still."""
    process = PaperProcess(tmp_path, market(tmp_path)).start()
    yield process
    process.stop()


@pytest.fixture
def strategy(kafka: str, venue: PaperProcess, tmp_path: Path) -> Iterator[Strategy]:
    """Run the command as a process of its own; what a test leaves running is killed."""
    asyncio.run(ensure_topics(kafka, [SIGNALS]))
    environment = {**os.environ, "TRADESAGA_KAFKA": kafka, "TRADESAGA_VENUE_URL": venue.url}
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, **changes: str) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "tradesaga.infra.cli.entry",
            "strategy",
            "run",
            "--json",
            "--dir",
            str(tmp_path),
        ]
        process = subprocess.Popen(
            [*command, *options],
            env={**environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def finished(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    """Wait for the end and give what was printed."""
    out, err = await asyncio.to_thread(process.communicate, timeout=40)
    assert process.returncode == code, err
    return out, err


async def raised(kafka: str, name: str, count: int) -> list[SignalRaised]:
    """Wait until a strategy has raised this many signals and give them in their order; the topic is everybody's."""
    found: list[SignalRaised] = []

    async def there() -> bool:
        seen = await asyncio.to_thread(read_topic, kafka, SIGNALS.name, 1, SIGNALS.partitions)
        found[:] = [SignalRaised.from_wire(each.value) for each in seen if each.key == name.encode()]
        return len(found) >= count

    await until(there)
    return found


def expected(fast: int, bars: int) -> list[tuple[int, str]]:
    """Compute where a window crosses that of four bars within the first `bars`, from the tape alone."""
    return [(at, side.value) for at, side in crossovers(map(Decimal, CLOSES[:bars]), fast, 4)]


def crossed(bars: int) -> int:
    """Count the crossings of both windows."""
    return len(expected(2, bars)) + len(expected(1, bars))


def told(signals: Sequence[SignalRaised], fast: int) -> list[tuple[int, str]]:
    """Give the bar and side of the signals of one window."""
    start = 1_577_836_800_000
    wanted = [each for each in signals if each.signal_id.split("-")[2] == str(fast)]
    return [((int(each.signal_id.split("-")[1]) - start) // 3_600_000, each.side.value) for each in wanted]


async def test_every_bar_is_seen_once_over_a_kill(
    kafka: str, venue: PaperProcess, strategy: Strategy, tmp_path: Path
) -> None:
    """Two windows over one market raise what the tape holds; a run after a kill misses and invents nothing."""
    name = f"tape-{uuid4().hex[:8]}"
    plan = {"name": name, "symbol": "EUR/USD", "slow": 4, "quantity": "10", "catch_up": 100}
    file = tmp_path / "plans.json"
    far = {"order_type": "LIMIT", "offset_bps": 500}
    file.write_text(json.dumps([{**plan, "fast": 2}, {**plan, "fast": 1, **far}]))
    first = strategy("--config", str(file), "--poll", "0.05")
    await raised(kafka, name, crossed(FIRST))
    await venue.step(10)
    await raised(kafka, name, crossed(30))
    first.kill()
    await venue.step(10)
    second = strategy("--config", str(file), "--poll", "0.05", "--bars", "15")
    await raised(kafka, name, crossed(30) + crossed(40))
    for _ in range(18):
        await venue.step()
    summary = json.loads((await finished(second))[0])
    assert summary["bars"] == {"EUR/USD 1h": 15}
    assert summary["signals"] == {name: crossed(55)}
    signals = await raised(kafka, name, crossed(30) + crossed(55))
    for fast in (2, 1):
        assert told(signals, fast) == expected(fast, 30) + expected(fast, 55)
    assert all((each.limit_price is None) == (each.signal_id.split("-")[2] == "2") for each in signals)


async def test_a_run_ends_when_told_and_when_the_tape_starts_over(
    kafka: str, venue: PaperProcess, strategy: Strategy
) -> None:
    """SIGTERM ends a run with its summary; a series that begins anew ends it by itself, for its bars were seen."""
    name = f"ends-{uuid4().hex[:8]}"
    options = ("--name", name, "--symbol", "EUR/USD", "--fast", "1", "--slow", "4", "--quantity", "1", "--poll", "0.05")
    stopped = strategy(*options, "--catch-up", "10")
    await raised(kafka, name, len(expected(1, FIRST)[-1:]))
    stopped.send_signal(signal.SIGTERM)
    assert json.loads((await finished(stopped))[0])["ended"] == {"EUR/USD 1h": "stopped"}
    before = len(await raised(kafka, name, 1))
    over = strategy(*options, "--catch-up", "10")
    await raised(kafka, name, 2 * before)
    await venue.step(len(CLOSES) - FIRST + 3)
    assert "does not continue" in json.loads((await finished(over))[0])["ended"]["EUR/USD 1h"]


@pytest.mark.parametrize(
    ("options", "changes", "code", "slug"),
    [
        (("--symbol", "GBP/USD"), {}, 4, "venue-refuses"),
        (("--symbol", "EUR/USD", "--interval", "1d"), {}, 4, "venue-refuses"),
        (("--symbol", "EUR/USD"), {"TRADESAGA_VENUE_URL": "http://127.0.0.1:9"}, 5, "venue-unavailable"),
        (("--symbol", "EUR/USD"), {"TRADESAGA_KAFKA": "127.0.0.1:9"}, 5, "kafka-unavailable"),
        (("--symbol", "EURUSD"), {}, 2, "strategy-invalid"),
    ],
)
async def test_what_is_wrong_at_the_start_is_told(
    strategy: Strategy, options: tuple[str, ...], changes: dict[str, str], code: int, slug: str
) -> None:
    """A symbol, an interval or a server that is not there ends the command with one sentence and its exit code."""
    process = strategy("--name", "wrong", "--quantity", "1", *options, **changes)
    _, err = await finished(process, code)
    assert json.loads(err.strip().splitlines()[-1])["error"]["code"] == slug
