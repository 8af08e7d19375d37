"""What people see of a run: how far it is, and what came of it."""

import asyncio
import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.faults.evidence import Evidence
from tests.faults.invariants import SHOWN, Verdict
from tests.faults.stage import Stage


async def show_progress(stage: Stage, console: Console) -> None:
    """Tell once in a while where the run is, for ever."""
    last = 0
    pause = 1.0 if console.is_terminal else 10.0
    with console.status("") as spinner:
        while True:
            await asyncio.sleep(pause)
            watch, faults = stage.watch, stage.notes.faults
            rate, last = (watch.ended - last) / pause, watch.ended
            now = faults[-1].name if faults and not faults[-1].ended else "-"
            line = (
                f"{watch.now:4.0f} s  {watch.phase:20}  {len(faults):2} faults  {watch.ended:5} of "
                f"{len(stage.clients.history.requests):5} sagas ended, {rate:5.1f}/s  {now[:60]}"
            )
            spinner.update(line)
            if not console.is_terminal:
                console.print(line, highlight=False, soft_wrap=True)


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print the invariants as a table."""
    table = Table("", "Invariant", "Checked", "Result")
    for verdict in verdicts:
        result = "holds" if verdict.holds else f"{len(verdict.findings)} found" if verdict.findings else "not tested"
        table.add_row(verdict.name, verdict.title, f"{verdict.checked:,}", result)
    console.print(table)


def show_findings(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print what was found against the invariants; last of all, since CI keeps the end of a long output."""
    for verdict in verdicts:
        if not verdict.checked:
            console.print(f"{verdict.name} was not tested", highlight=False)
        for finding in verdict.findings[:SHOWN]:
            console.print(f"{verdict.name}: {finding}", highlight=False, markup=False)
        if len(verdict.findings) > SHOWN:
            console.print(f"{verdict.name}: and {len(verdict.findings) - SHOWN} more", highlight=False)


def figures(seen: Evidence, verdicts: Sequence[Verdict], seed: int, seconds: float) -> dict[str, Any]:
    """Give all figures of a run, for scripts and for people."""
    notes, history = seen.notes, seen.history
    recovered = sorted(fault.progress - fault.ended for fault in notes.faults if fault.progress is not None)
    states: dict[str, int] = {}
    for row in seen.tables["sagas"]:
        states[row["state"]] = states.get(row["state"], 0) + 1
    return {
        "seed": seed,
        "clusters": notes.clusters,
        "seconds": round(seconds, 1),
        "ok": all(verdict.holds for verdict in verdicts),
        "sagas": states,
        "clients": {told: history.count(told) for told in ("ok", "fail", "unknown")},
        "conflicts": history.conflicts,
        "repeats": history.repeats,
        "records": len(seen.records),
        "exchange": {"orders": len(seen.orders), "calls": len(seen.calls)},
        "faults": len(notes.faults),
        "fenced": notes.fenced,
        "failpoints": notes.fallen,
        "commits_unheard": notes.swallowed,
        **({"acknowledged_before_failovers": notes.failovers, "leader_moves": notes.moves} if notes.clusters else {}),
        "replayed": notes.replayed,
        "bars_first": notes.barred,
        "poisons": len(notes.planted),
        "untried": notes.untried,
        "slowest_progress_seconds": round(recovered[-1], 1) if recovered else None,
        "drain_seconds": None if notes.drained is None else round(notes.drained, 1),
        "peak_mb": round(max(notes.peak_mb.values(), default=0.0)),
        "growth_mb_a_minute": {name: round(growth, 1) for name, growth in notes.growth.items()},
        "usual_loop_lag_ms": {name: round(lag) for name, lag in notes.lag_ms.items()},
        "invariants": {
            verdict.name: {"title": verdict.title, "checked": verdict.checked, "found": verdict.findings[:50]}
            for verdict in verdicts
        },
    }


def show_figures(console: Console, told: dict[str, Any]) -> None:
    """Print what is no invariant."""
    for name, value in told.items():
        if name != "invariants":
            console.print(f"{name.replace('_', ' ')}: {value}", highlight=False)


def save(told: dict[str, Any], seen: Evidence, folder: Path) -> None:
    """Keep the figures and the list of faults; of a run that has found something, the whole evidence too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.json").write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    lines = (
        f"{fault.began:7.1f} {fault.ended:7.1f} {fault.progress or -1:7.1f}  {fault.phase}: {fault.name}\n"
        for fault in seen.notes.faults
    )
    (folder / "faults.txt").write_text("".join(lines))
    if not told["ok"]:
        with gzip.open(folder / "evidence.pickle.gz", "wb", compresslevel=1) as file:
            pickle.dump(seen, file)
