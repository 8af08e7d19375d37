"""`tradesaga start`: one trade from options, or many from a file or a pipe."""

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
from tradesaga.infra.outbox.outbox_writer import NotWrittenError, WriteUnknownError
from tradesaga.infra.postgres.database import Pool, open_pool
from tradesaga.infra.registry.sagas import find_saga
from tradesaga.infra.settings import SAGA_LOG, Settings, load_settings
from tradesaga.infra.starts.accept import check_startable
from tradesaga.infra.starts.backpressure import PipelineLag
from tradesaga.infra.starts.request_keys import read_request_keys
from tradesaga.infra.telemetry.logs import silence_libraries
from tradesaga.producers.backpressure import Limits, StartBackpressure
from tradesaga.producers.start.accept import start_writer
from tradesaga.producers.start.bulk import RequestResult, start_all, wait_for_ends
from tradesaga.producers.start.lines import Line, read_lines
from tradesaga.sagas.definition import AnySaga
from tradesaga.schemas.messages.trade import OrderType, Side, TimeInForce

_MANY: Final = 50
_NOT_STARTED: Final = frozenset({"invalid", "conflict"})


@dataclass(frozen=True, slots=True)
class _Options:
    """How the requests are started; `wait` is in seconds, `single` without a file."""

    saga: AnySaga
    wait: float
    as_json: bool
    single: bool


@dataclass(slots=True)
class _Totals:
    """Counts of results and states; `open` has the requests that are printed once their sagas have ended."""

    results: Counter[str] = field(default_factory=Counter[str])
    states: Counter[str] = field(default_factory=Counter[str])
    last: RequestResult | None = None
    open: dict[UUID, list[RequestResult]] = field(default_factory=dict[UUID, list[RequestResult]])

    def exit_code(self) -> ExitCode:
        """Return the most serious code: invalid line, conflicting start, not ended in time, not completed."""
        if self.results["invalid"]:
            return ExitCode.USAGE
        if self.results["conflict"]:
            return ExitCode.REFUSED
        if self.states["OPEN"]:
            return ExitCode.UNAVAILABLE
        return ExitCode.CHECK_FAILED if set(self.states) - {"COMPLETED"} else ExitCode.FINE


def start(
    *,
    account: Annotated[str | None, typer.Option(help="The trading account.")] = None,
    symbol: Annotated[str | None, typer.Option(help="The instrument, as BASE/QUOTE.")] = None,
    side: Annotated[Side | None, typer.Option(case_sensitive=False, help="The side of the order.")] = None,
    quantity: Annotated[str | None, typer.Option(help="The quantity in the base asset, a decimal number.")] = None,
    limit: Annotated[str | None, typer.Option(help="The limit price; makes it a LIMIT order.")] = None,
    time_in_force: Annotated[
        TimeInForce | None, typer.Option(case_sensitive=False, help="Default: IOC without a limit, GTC with one.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key; default a new one.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Requests as JSON Lines or a JSON array; - reads stdin.")
    ] = None,
    saga: Annotated[str, typer.Option(help="The saga that the requests start.")] = "trade",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all have ended.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds for which --wait waits.")] = 60.0,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Start trades. Exit 2: a request is invalid, 4: its key is taken, 5: the pipeline lags; see also --wait.

    With --wait, exit 5: a saga has not ended in time, 1: a saga has not completed.

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
        raise CommandError(
            "usage", "there is no request, or both a file and options", "tradesaga start", do, ExitCode.USAGE
        )
    options = _Options(definition, timeout if wait else 0.0, as_json, single=file is None)
    with _requests(file, given) as lines:
        totals = asyncio.run(_start(settings, options, lines))
    if options.single and totals.last is not None and totals.last.result in _NOT_STARTED:
        raise _error(totals.last)
    _summarize(totals, as_json=as_json)
    if totals.exit_code():
        raise typer.Exit(int(totals.exit_code()))


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


async def _start(settings: Settings, options: _Options, lines: Iterable[Line]) -> _Totals:
    saga, keys = options.saga, read_request_keys(settings.request_keys_file())
    pool = await open_pool(settings.database_for(SAGA_LOG), max_size=3, application_name="tradesaga start")
    totals = _Totals()
    try:
        with _progress(options) as progress:
            async with (
                PipelineLag(settings.brokers(), saga.name, Limits().lag_seconds) as lag,
                start_writer(settings, pool, saga, "start") as writer,
            ):
                task, backpressure = progress.add_task("started", total=None), StartBackpressure(lag, pool)
                async for batch in start_all(writer, saga, lines, backpressure, keys=keys):
                    progress.advance(task, len(batch))
                    _add(totals, batch, options)
            if totals.open:
                await _wait(pool, totals, options, progress)
    except (NotWrittenError, WriteUnknownError) as error:
        do = "look at `tradesaga status`; send the same requests again with their keys: none is started twice"
        raise unavailable("not-started", f"starting has stopped: {error}", "start lanes", do) from error
    finally:
        await pool.close()
    return totals


def _add(totals: _Totals, batch: list[RequestResult], options: _Options) -> None:
    for each in batch:
        totals.results[each.result] += 1
        totals.last = each
        if options.wait and each.saga_id is not None and each.result != "conflict":
            totals.open.setdefault(each.saga_id, []).append(each)
        elif not (options.single and each.result in _NOT_STARTED):
            _show(each, as_json=options.as_json)


async def _wait(pool: Pool, totals: _Totals, options: _Options, progress: Progress) -> None:
    def show(requests: list[RequestResult], state: str) -> None:
        for each in requests:
            totals.states[state] += 1
            _show(replace(each, state=state), as_json=options.as_json)

    task = progress.add_task("ended", total=len(totals.open))
    async for ended in wait_for_ends(pool, totals.open, options.wait):
        progress.advance(task, len(ended))
        for saga_id, state in ended.items():
            show(totals.open.pop(saga_id), state)
    for waiting in totals.open.values():
        show(waiting, "OPEN")


@contextmanager
def _progress(options: _Options) -> Generator[Progress]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=options.as_json or not console.is_terminal) as progress:
        yield progress


def _show(request: RequestResult, *, as_json: bool) -> None:
    """Print results on stdout, and lines that started nothing on stderr."""
    if as_json:
        typer.echo(to_json(request.as_json()))
    elif request.result in _NOT_STARTED:
        typer.echo(f"line {request.line}: {request.reason}", err=True)
    else:
        typer.echo(" ".join(filter(None, (str(request.saga_id), request.result, request.state))))


def _error(request: RequestResult) -> CommandError:
    if request.result == "invalid":
        do = "correct the options; see `tradesaga start --help`"
        return CommandError("invalid", request.reason, "tradesaga start", do, ExitCode.USAGE)
    do = "use a new key for a new trade, or repeat the first request unchanged"
    return CommandError("key-taken", request.reason, str(request.saga_id), do, ExitCode.REFUSED)


def _summarize(totals: _Totals, *, as_json: bool) -> None:
    total = sum(totals.results.values())
    if as_json or (total < _MANY and not (totals.results["invalid"] and total > 1)):
        return
    text = ", ".join(f"{number} {name}" for name, number in {**totals.results, **totals.states}.items())
    typer.echo(f"{total} requests: {text}", err=True)
