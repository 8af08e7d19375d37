"""`tradesaga strategy run`: publish crossings of moving averages over a venue's bars as signals."""

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tradesaga.infra.cli.console import AsJson, Directory, print_result
from tradesaga.infra.errors import CommandError, ExitCode
from tradesaga.infra.settings import Settings, load_settings
from tradesaga.infra.telemetry.logs import configure_logs
from tradesaga.producers.strategy.config import StrategyConfig, read_strategies, validate_strategies
from tradesaga.schemas.messages.trade import OrderType, TimeInForce

commands = typer.Typer()
strategy = typer.Typer(no_args_is_help=True, help="Moving averages whose crossings are signals.")
commands.add_typer(strategy, name="strategy")


@strategy.callback()
def _keep_as_group() -> None:
    """Moving averages whose crossings are signals."""


@strategy.command(epilog="Example: `tradesaga strategy run --name trend --symbol EUR/USD --quantity 1000`")
def run(
    *,
    name: Annotated[str | None, typer.Option(help="The strategy's name, which accounts subscribe to.")] = None,
    symbol: Annotated[str | None, typer.Option(help="BASE/QUOTE.")] = None,
    interval: Annotated[str, typer.Option(help="Interval of the bars: 1m, 1h, 1d.")] = "1h",
    fast: Annotated[int, typer.Option(min=1, help="Bars of the fast average.")] = 5,
    slow: Annotated[int, typer.Option(min=2, help="Bars of the slow average.")] = 20,
    quantity: Annotated[str | None, typer.Option(help="Quantity of each signal.")] = None,
    order_type: Annotated[OrderType, typer.Option(help="MARKET, or LIMIT with an offset.")] = OrderType.MARKET,
    offset_bps: Annotated[int, typer.Option(min=0, help="Distance between close and limit, in basis points.")] = 0,
    tif: Annotated[TimeInForce, typer.Option(help="Time in force of the orders.")] = TimeInForce.IOC,
    catch_up: Annotated[int, typer.Option(min=0, help="Past bars whose signals are published at the start.")] = 0,
    config: Annotated[Path | None, typer.Option(help="JSON list of strategies to run in one process.")] = None,
    bars: Annotated[int | None, typer.Option(min=1, help="End after this many new bars of each symbol.")] = None,
    poll: Annotated[float, typer.Option(min=0.01, help="Seconds between two polls of the venue.")] = 1.0,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Read the venue's bars until SIGTERM, or for --bars, and publish the crossings on trade.signals.

    The file of --config is a list of objects with the fields name, symbol and quantity, and optionally interval, fast,
    slow, order_type, offset_bps, time_in_force and catch_up.
    """
    given = (name, symbol, quantity)
    if config is None:
        if None in given:
            raise typer.BadParameter("give --name, --symbol and --quantity, or --config")
        entry = {
            "name": name, "symbol": symbol, "interval": interval, "fast": fast, "slow": slow, "quantity": quantity,
            "order_type": order_type, "offset_bps": offset_bps, "time_in_force": tif, "catch_up": catch_up,
        }  # fmt: skip
        strategies = validate_strategies([entry], "command line")
    elif any(given):
        raise typer.BadParameter("give --config, or --name, --symbol and --quantity; not both")
    else:
        strategies = read_strategies(config)
    settings = load_settings(directory)
    configure_logs(settings.log_level, settings.log_format)
    summary = asyncio.run(_run(settings, strategies, bars, poll))
    print_result(summary, _describe(summary), as_json=as_json)


async def _run(settings: Settings, strategies: list[StrategyConfig], bars: int | None, poll: float) -> dict[str, Any]:
    from tradesaga.infra.telemetry.health import serve_probes  # noqa: PLC0415 - the clients are heavy, and `--help` needs none
    from tradesaga.infra.venues.klines import Klines  # noqa: PLC0415
    from tradesaga.producers.strategy.market import group_by_market  # noqa: PLC0415
    from tradesaga.producers.strategy.runner import SignalPublisher, trade_markets  # noqa: PLC0415

    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    klines, publisher = Klines(_venue_of(settings)), SignalPublisher(settings.brokers(), stop)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(klines.close)
        stack.push_async_callback(publisher.close)
        await stack.enter_async_context(serve_probes(settings.http_host, settings.metrics_port))
        return asdict(await trade_markets(group_by_market(strategies, bars), klines, publisher, poll=poll, stop=stop))


def _venue_of(settings: Settings) -> str:
    if not settings.venue_url:
        do = "start the stack with `tradesaga up`, or set TRADESAGA_VENUE_URL"
        raise CommandError("venue-unknown", "no venue is set", str(settings.home), do, ExitCode.USAGE)
    return settings.venue_url


def _describe(summary: dict[str, Any]) -> str:
    bars = ", ".join(f"{name} {count} bars ({summary['ended'][name]})" for name, count in summary["bars"].items())
    signals = ", ".join(f"{name} {count}" for name, count in summary["signals"].items()) or "none"
    return f"read {bars}; signals: {signals}"
