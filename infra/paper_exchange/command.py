"""`tradesaga venue`: run the paper venue."""

from pathlib import Path
from typing import Annotated

import typer


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
    """Run the paper venue until SIGTERM; prints one JSON line once it listens.

    Example: `tradesaga venue --port 8090 --dir ./venue --speed 5`
    """
    from tradesaga.infra.paper_exchange.launch import read_settings, run_venue  # noqa: PLC0415 - no other command needs a server

    run_venue(directory, (host, port), read_settings(config, speed, faults), admin_key)
