"""`tradesaga venue`: run the paper venue."""

import asyncio
import json
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Error as SqliteError
from typing import Annotated, Final

import typer
import uvloop
from pydantic import TypeAdapter, ValidationError

from tradesaga.infra.errors import CommandError, ExitCode, unavailable
from tradesaga.infra.paper_exchange.book import PricesMissingError
from tradesaga.infra.paper_exchange.faults import Fault
from tradesaga.infra.paper_exchange.ledger import JournalBrokenError, LedgerBusyError
from tradesaga.infra.paper_exchange.server import serve
from tradesaga.infra.paper_exchange.settings import PaperSettings
from tradesaga.infra.paper_exchange.venue import Venue
from tradesaga.schemas.invalid import first_invalid

_SWITCH_INTERVAL: Final = 0.0005


def run_venue(directory: Path, address: tuple[str, int], settings: PaperSettings, admin_key: str | None) -> None:
    """Run until SIGTERM or SIGINT."""
    listener = listen_on(*address)
    venue = _open(directory, settings)
    key = admin_key or venue.ledger.setting("admin_key", secrets.token_urlsafe(24))
    key_file = directory / "admin.key"
    key_file.touch(mode=0o600)
    key_file.write_text(key + "\n")

    def ready() -> None:
        name, port = listener.getsockname()[:2]
        sys.stdout.write(json.dumps({"venue": f"http://{name}:{port}", "ledger": str(venue.ledger.path)}) + "\n")
        sys.stdout.flush()

    sys.setswitchinterval(_SWITCH_INTERVAL)  # the ledger's thread must not wait 5 ms for each turn
    broken = ""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(venue, listener, key, ready))
    except* JournalBrokenError as group:
        broken = str(group.exceptions[0])
    finally:
        venue.close()
    if broken:
        what = f"the ledger can no longer be written: {broken}"
        raise unavailable("ledger_broken", what, str(directory), "free disk space, then start again")


async def _serve(venue: Venue, listener: socket.socket, key: str, ready: Callable[[], None]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(venue, listener, key, ready, stop)


def read_settings(config: Path | None, speed: float | None, faults: str | None) -> PaperSettings:
    """Read the configuration file, if there is one, and apply the options to it."""
    where = str(config or "options")
    try:
        settings = PaperSettings.model_validate_json(config.read_bytes()) if config else PaperSettings()
        if faults is not None:
            where = "--faults"
            added = TypeAdapter(tuple[Fault, ...]).validate_json(faults)
            settings = settings.model_copy(update={"faults": settings.faults + added})
    except OSError as error:
        what = f"cannot read it: {error.strerror}"
        raise CommandError("bad_config", what, where, "check the path", ExitCode.USAGE) from None
    except ValidationError as error:
        first = first_invalid(error)
        what = f"{first.field or 'the configuration'}: {first.reason}"
        raise CommandError("bad_config", what, where, "correct the JSON", ExitCode.USAGE) from None
    return settings if speed is None else settings.model_copy(update={"speed": speed})


def _open(directory: Path, settings: PaperSettings) -> Venue:
    try:
        return Venue(settings, directory / "ledger.sqlite")
    except PricesMissingError as error:
        raise CommandError("no_prices", str(error), "prices", "install it or name a CSV file", ExitCode.USAGE) from None
    except LedgerBusyError as error:
        what, do = str(error), "stop it, or give another --dir"
        raise CommandError("ledger_busy", what, str(directory), do, ExitCode.REFUSED) from None
    except (OSError, SqliteError) as error:
        raise unavailable("no_ledger", f"cannot open the ledger: {error}", str(directory), "check the folder") from None


def listen_on(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 selects a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        what = f"cannot listen: {error.strerror or error}"
        raise unavailable("port_taken", what, f"{host}:{port}", "free the port, or give another --port") from None
    return listener


def venue(  # noqa: PLR0917 - typer's options
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the ledger and the admin key.")] = Path(
        ".tradesaga/venue"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 selects a free one.")] = 8090,
    config: Annotated[Path | None, typer.Option(help="JSON file: listings, accounts, fees, faults, speed.")] = None,
    speed: Annotated[float | None, typer.Option(min=0, max=1000, help="Bars per second; 0 stops the market.")] = None,
    faults: Annotated[str | None, typer.Option(help="JSON list of initial faults.")] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(
            envvar="TRADESAGA_VENUE_ADMIN_KEY",
            help="Key for /paper; by default generated, in admin.key.",
        ),
    ] = None,
) -> None:
    """Run the paper venue until SIGTERM; print one line of JSON when it listens.

    Example: `tradesaga venue --port 8090 --dir ./venue --speed 5`
    """
    run_venue(directory, (host, port), read_settings(config, speed, faults), admin_key)
