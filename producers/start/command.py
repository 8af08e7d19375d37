"""`tradesaga start`: one trade by options, or many from a file or a pipe."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID, uuid4

import orjson
import structlog
import typer
from rich.console import Console
from rich.progress import Progress

from tradesaga.infra.cli.console import AsJson, Directory, to_json
from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.outbox.guard import group_filter_for
from tradesaga.infra.outbox.outbox_writer import NotWrittenError, OutboxWriter, WriteUnknownError
from tradesaga.infra.outbox.ownership import unique_owner_name
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.infra.registry.sagas import find_saga
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.starts.accept import check_startable
from tradesaga.infra.starts.backpressure import PipelineLag
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.producers.limits import Limits
from tradesaga.producers.start.accept import LANES, StartBackpressure
from tradesaga.producers.start.lines import Line, read_lines
from tradesaga.producers.start.many import Told, start_all, wait_for_ends
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

_MANY: Final = 50
_REFUSED: Final = frozenset({"invalid", "conflict"})


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command is to do with the requests."""

    saga: AnySaga
    wait: float
    as_json: bool
    single: bool


@dataclass(slots=True)
class _Tally:
    """What has come of the requests so far; those to be waited for are told once they have ended."""

    results: Counter[str] = field(default_factory=Counter[str])
    states: Counter[str] = field(default_factory=Counter[str])
    last: Told | None = None
    open: dict[UUID, list[Told]] = field(default_factory=dict[UUID, list[Told]])

    def exit_code(self) -> ExitCode:
        """Return the most serious code: invalid line, refused start, not ended in time, not completed."""
        if self.results["invalid"]:
            return ExitCode.USAGE
        if self.results["conflict"]:
            return ExitCode.REFUSED
        if self.states["OPEN"]:
            return ExitCode.UNAVAILABLE
        return ExitCode.CHECK_FAILED if set(self.states) - {"COMPLETED"} else ExitCode.FINE


def start(
    *,
    account: Annotated[str | None, typer.Option(help="Who trades.")] = None,
    symbol: Annotated[str | None, typer.Option(help="What is traded, as BASE/QUOTE.")] = None,
    side: Annotated[Side | None, typer.Option(case_sensitive=False, help="Which way.")] = None,
    quantity: Annotated[str | None, typer.Option(help="How much of the base, a decimal number.")] = None,
    limit: Annotated[str | None, typer.Option(help="The worst price to take; makes it a LIMIT order.")] = None,
    time_in_force: Annotated[
        TimeInForce | None, typer.Option(case_sensitive=False, help="Default: IOC without a limit, GTC with one.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key; default a new one.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Requests as JSON Lines or a JSON array; - reads stdin.")
    ] = None,
    saga: Annotated[str, typer.Option(help="Which saga the requests start.")] = "trade",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all have ended.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="How many seconds --wait waits.")] = 60.0,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Start trades; exit 2: a request is wrong, 4: its key is taken, 5: too much is under way; see also --wait.

    With --wait, 5: one has not ended in time, 1: one did not complete.

    Example: `tradesaga start --account alice --symbol EUR/USD --side buy --quantity 1000 --wait`
    """
    silence_libraries()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = load_settings(directory)
    definition = find_saga(saga, settings.app)
    check_startable(definition)
    fields = {
        "idempotency_key": key, "account": account, "symbol": symbol, "side": side, "quantity": quantity,
        "limit_price": limit, "time_in_force": time_in_force,
    }  # fmt: skip
    given = {name: value for name, value in fields.items() if value is not None}
    if (file is None) == (not given):
        do = "give either --file, or --account, --symbol, --side and --quantity"
        raise CommandError("usage", "it is not clear what to start", "tradesaga start", do, ExitCode.USAGE)
    wish = _Wish(definition, timeout if wait else 0.0, as_json, single=file is None)
    with _requests(file, given) as lines:
        tally = asyncio.run(_start(settings, wish, lines))
    if wish.single and tally.last is not None and tally.last.result in _REFUSED:
        raise _refusal(tally.last)
    _sum_up(tally, as_json=as_json)
    if tally.exit_code():
        raise typer.Exit(int(tally.exit_code()))


@contextmanager
def _requests(file: str | None, given: dict[str, str]) -> Generator[Iterable[Line]]:
    if file is None:
        yield [Line(1, orjson.dumps(_complete(given)))]
    elif file == "-":
        yield read_lines(sys.stdin.buffer, "stdin")
    else:
        try:
            with Path(file).open("rb") as source:
                yield read_lines(source, file)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            what = f"the file cannot be read: {error.strerror}"
            raise CommandError("file", what, file, "give a file of requests", ExitCode.USAGE) from None


def _complete(given: dict[str, str]) -> dict[str, str]:
    order_type = OrderType.LIMIT if "limit_price" in given else OrderType.MARKET
    force = TimeInForce.GTC if order_type is OrderType.LIMIT else TimeInForce.IOC
    return {"idempotency_key": uuid4().hex, "order_type": order_type, "time_in_force": force, **given}


async def _start(settings: Settings, wish: _Wish, lines: Iterable[Line]) -> _Tally:
    keys = read_request_keys(settings.request_keys_file())
    pool = await open_pool(settings.database_for(SAGA_LOG), max_size=3, application_name="tradesaga start")
    group, topic, count = LANES
    tally = _Tally()
    try:
        with _progress(wish) as progress:
            owner, here = unique_owner_name("start"), group_filter_for(settings, SAGA_LOG)
            async with (
                PipelineLag(settings.brokers(), wish.saga.name, Limits().lag_seconds) as lag,
                OutboxWriter(
                    pool, settings.brokers(), group, topic, count, owner=owner, saga=wish.saga.name, group_filter=here
                ) as writer,
            ):
                task, backpressure = progress.add_task("started", total=None), StartBackpressure(lag, pool)
                async for batch in start_all(writer, wish.saga, lines, "start", backpressure, keys=keys):
                    progress.advance(task, len(batch))
                    _take_note(tally, batch, wish)
            if tally.open:
                await _wait(pool, tally, wish, progress)
    except (NotWrittenError, WriteUnknownError) as error:
        do = "look at `tradesaga status`; give the same requests again, keys and all: none is started twice"
        raise unavailable("not-started", f"starting has stopped: {error}", "start lanes", do) from error
    finally:
        await pool.close()
    return tally


def _take_note(tally: _Tally, batch: list[Told], wish: _Wish) -> None:
    for told in batch:
        tally.results[told.result] += 1
        tally.last = told
        if wish.wait and told.saga_id is not None and told.result != "conflict":
            tally.open.setdefault(told.saga_id, []).append(told)
        elif not (wish.single and told.result in _REFUSED):
            _show(told, as_json=wish.as_json)


async def _wait(pool: Pool, tally: _Tally, wish: _Wish, progress: Progress) -> None:
    task = progress.add_task("ended", total=len(tally.open))
    async for ended in wait_for_ends(pool, tally.open, wish.wait):
        progress.advance(task, len(ended))
        for saga_id, state in ended.items():
            for told in tally.open.pop(saga_id):
                tally.states[state] += 1
                _show(replace(told, state=state), as_json=wish.as_json)
    for waiting in tally.open.values():
        for told in waiting:
            tally.states["OPEN"] += 1
            _show(replace(told, state="OPEN"), as_json=wish.as_json)


@contextmanager
def _progress(wish: _Wish) -> Generator[Progress]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=wish.as_json or not console.is_terminal) as progress:
        yield progress


def _show(told: Told, *, as_json: bool) -> None:
    """Print results on stdout, and lines that started nothing on stderr."""
    if as_json:
        typer.echo(to_json(told.as_json()))
    elif told.result in _REFUSED:
        typer.echo(f"line {told.line}: {told.reason}", err=True)
    else:
        typer.echo(" ".join(filter(None, (str(told.saga_id), told.result, told.state))))


def _refusal(told: Told) -> CommandError:
    if told.result == "invalid":
        do = "correct the options; see `tradesaga start --help`"
        return CommandError("invalid", told.reason, "tradesaga start", do, ExitCode.USAGE)
    do = "use a new key for a new trade, or repeat the first request unchanged"
    return CommandError("key-taken", told.reason, str(told.saga_id), do, ExitCode.REFUSED)


def _sum_up(tally: _Tally, *, as_json: bool) -> None:
    total = sum(tally.results.values())
    if total < _MANY and not (tally.results["invalid"] and total > 1):
        return
    counted = {**tally.results, **tally.states}
    text = ", ".join(f"{number} {name}" for name, number in counted.items())
    if not as_json:
        typer.echo(f"{total} requests: {text}", err=True)
