"""`tradesaga venue`: run the paper venue."""

import asyncio
import json
import secrets
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from pydantic import TypeAdapter, ValidationError

from infra.errors import CommandError, ExitCode, unavailable
from infra.venues.paper.faults import Fault
from infra.venues.paper.journal import JournalBrokenError
from infra.venues.paper.ledger import LedgerBusyError
from infra.venues.paper.server import Door, serve
from infra.venues.paper.settings import PaperSettings
from infra.venues.paper.tape import TapeMissingError
from infra.venues.paper.venue import Venue

_PATIENCE = 0.0005


def venue(  # noqa: PLR0917 - typer's options
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the ledger and the admin key.")] = Path(
        ".tradesaga/venue"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8090,
    config: Annotated[Path | None, typer.Option(help="JSON file: listings, accounts, fees, faults, speed.")] = None,
    speed: Annotated[float | None, typer.Option(min=0, max=1000, help="Bars a second; 0 holds the market.")] = None,
    faults: Annotated[str | None, typer.Option(help="JSON list of faults to start with.")] = None,
    admin_key: Annotated[
        str | None, typer.Option(envvar="TRADESAGA_VENUE_ADMIN_KEY", help="Key of /paper; else one is made and kept.")
    ] = None,
) -> None:
    """Run the paper venue until SIGTERM; prints one JSON line once it listens."""
    _run(directory, (host, port), _read_settings(config, speed, faults), admin_key)


def _run(directory: Path, address: tuple[str, int], settings: PaperSettings, admin_key: str | None) -> None:
    listener = _listen(*address)
    try:
        place = Venue(settings, directory / "ledger.sqlite")
    except TapeMissingError as error:
        raise CommandError("no_prices", str(error), "prices", "install it or name a CSV file", ExitCode.USAGE) from None
    except LedgerBusyError as error:
        what, do = str(error), "stop it, or give another --dir"
        raise CommandError("ledger_busy", what, str(directory), do, ExitCode.REFUSED) from None
    except OSError as error:
        raise unavailable("no_ledger", f"cannot open the ledger: {error}", str(directory), "check the folder") from None
    key = admin_key or place.ledger.setting("admin_key", secrets.token_urlsafe(24))
    _keep_key(directory / "admin.key", key)

    def ready() -> None:
        name, port = listener.getsockname()[:2]
        sys.stdout.write(json.dumps({"venue": f"http://{name}:{port}", "ledger": str(place.ledger.path)}) + "\n")
        sys.stdout.flush()

    sys.setswitchinterval(_PATIENCE)  # the ledger's thread must not wait 5 ms for each turn
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(place, Door(listener, key), ready))
    except* JournalBrokenError as broken:
        what = f"the ledger can no longer be written: {broken.exceptions[0]}"
        raise unavailable("ledger_broken", what, str(directory), "make room, then start again") from None
    finally:
        place.close()


def _listen(host: str, port: int) -> socket.socket:
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


def _read_settings(config: Path | None, speed: float | None, faults: str | None) -> PaperSettings:
    where = str(config or "options")
    try:
        settings = PaperSettings.model_validate_json(config.read_bytes()) if config else PaperSettings()
        if faults is not None:
            where = "--faults"
            added = TypeAdapter(tuple[Fault, ...]).validate_json(faults)
            settings = settings.model_copy(update={"faults": settings.faults + added})
    except OSError as error:
        raise CommandError(
            "bad_config", f"cannot read it: {error.strerror}", where, "check the path", ExitCode.USAGE
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
        raise CommandError("bad_config", what, where, "correct the JSON", ExitCode.USAGE) from None
    return settings if speed is None else settings.model_copy(update={"speed": speed})


def _keep_key(path: Path, key: str) -> None:
    path.touch(mode=0o600)
    path.write_text(key + "\n")
