"""A million facts through the audit: `python -m tests.audit_scale [--facts N] [--folder DIR]`; takes ten minutes.

Servers of its own are started, and stopped before the export is verified a second time, in a network namespace without
any network. Prints a table and writes `build/audit-scale.json`.
"""

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.audit_scale.run import ScaleRun
from tradesaga.infra.local_stack.servers import start_servers, stop_servers

NO_NETWORK = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-r", "-n")


def main(
    facts: Annotated[int, typer.Option(help="Facts to make; six a saga.")] = 1_000_000,
    folder: Annotated[
        Path | None, typer.Option(help="A folder that is kept, and gone on with; a temporary one if not given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/audit-scale.json"),
    *,
    replay: Annotated[bool, typer.Option(help="Replay the topics and compare, too.")] = True,
) -> None:
    """Make, seal, verify, replay, export, and verify again with nothing in reach."""
    with ExitStack() as stack:
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tradesaga-scale-")))
        home.mkdir(exist_ok=True)
        home.chmod(0o711)
        run, records = _with_servers(home, facts, replay=replay)
        told = run.verify_with_nothing_in_reach("export verified, no network", records, NO_NETWORK)
    assert (told["unaltered"], told["complete"], told["rows"]) == (True, True, records), told
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = [{**asdict(stage), "rate": stage.rate, "rate_of_a_core": stage.rate_of_a_core} for stage in run.stages]
    out.write_text(json.dumps({"facts": records, "stages": figures, "load_average": os.getloadavg()}, indent=2))
    Console().print(_table(run))


def _with_servers(home: Path, facts: int, *, replay: bool) -> tuple[ScaleRun, int]:
    state = start_servers(home)
    try:
        environment = {**os.environ, "TRADESAGA_KAFKA": state.kafka, "TRADESAGA_DATABASE_URL": state.database_url}
        run = ScaleRun(environment, home)
        records = run.load(facts)
        told = run.tell("database verified", records, "verify")
        assert (told["unaltered"], told["complete"]) == (True, True), told
        if replay:
            told = run.tell("topics replayed and compared", records, "replay", "--saga", "bench")
            assert told["equal"], told
        run.tell("exported", records, "export", "--out", str(run.export))
        told = run.verify_with_nothing_in_reach("export verified", records)
        assert (told["unaltered"], told["complete"]) == (True, True), told
    finally:
        stop_servers(home)
    return run, records


def _table(run: ScaleRun) -> Table:
    table = Table(title="the audit trail at size")
    for heading in ("", "records", "seconds", "a second", "a core's second", "largest MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    for stage in run.stages:
        figures = (stage.records, round(stage.seconds), stage.rate, stage.rate_of_a_core, stage.memory_mb)
        table.add_row(stage.name, *(f"{figure:,.0f}" for figure in figures))
    return table


if __name__ == "__main__":
    typer.run(main)
