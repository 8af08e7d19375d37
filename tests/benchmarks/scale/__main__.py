"""How the product bears size: `make scale`, or `python -m tests.benchmarks.scale`.

Prints a table a part and writes `build/scale.json`. Exits with 1 when a saga was lost, failed or done twice.
"""

import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from tests.benchmarks.machine import describe
from tests.benchmarks.scale import growth, in_flight, rebalance, restart, saturation
from tests.benchmarks.scale.report import table_of
from tests.benchmarks.stage import Stage, servers

PARTS = ("in-flight", "saturation", "growth", "restart", "rebalance")


BUFFERS = "4GB"
"""PostgreSQL's shared buffers: the indexes of a million sagas fit in them, twice over."""


class Size(NamedTuple):
    """How much of everything."""

    in_flight: Sequence[int]
    beside: int
    multiples: Sequence[float]
    seconds: float
    flat_out: int
    growth: growth.Plan
    open: Sequence[int]
    workers: Sequence[int]
    rate: int
    between: float

    def up_to(self, most: int) -> "Size":
        """Give the same with no more sagas at once than these."""
        plan = self.growth._replace(sizes=_within(self.growth.sizes, most))
        return self._replace(in_flight=_within(self.in_flight, most), open=_within(self.open, most), growth=plan)


FULL = Size(
    in_flight=(1_000, 10_000, 100_000), beside=2_000,
    multiples=(0.5, 1, 1.5, 2, 3), seconds=20, flat_out=5_000,
    growth=growth.Plan((10_000, 100_000, 1_000_000), 3, 5_000),
    open=(1_000, 1_000_000),
    workers=(2, 4), rate=100, between=12,
)  # fmt: skip
SMALL = Size(
    in_flight=(50, 200), beside=20,
    multiples=(0.5, 2), seconds=1, flat_out=100,
    growth=growth.Plan((1_000,), 1, 50),
    open=(1_000,),
    workers=(2,), rate=20, between=2.5,
)  # fmt: skip


def main(
    *,
    parts: Annotated[str, typer.Option(help=f"Some of {', '.join(PARTS)}.")] = ",".join(PARTS),
    small: Annotated[bool, typer.Option("--small", help="Smoke run; the figures mean nothing.")] = False,
    most: Annotated[int, typer.Option(help="No more sagas at once than these.", min=100)] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON too.")] = False,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("build/scale.json"),
) -> None:
    """Measure how the product bears size: exit 0, or 1 when a saga was lost, failed, or done twice.

    Examples:
      make scale                              (every part: half an hour, 40 GB)

      make scale ARGS=--small                 (smoke run)

      make scale ARGS="--parts growth --most 100000"

      make scale ARGS="--parts in-flight,rebalance --json"
    """
    if not small:
        os.environ.setdefault("TRADESAGA_PG_BUFFERS", BUFFERS)
    chosen = parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: give some of {', '.join(PARTS)}")
    log, told = Console(stderr=True), list[dict[str, Any]]()
    size = SMALL if small else FULL.up_to(most)
    with _stages(shared=small) as stages_of:
        for part in PARTS:
            if part in chosen:
                began = time.monotonic()
                with stages_of(2 if part == "growth" else 1) as stages:
                    machine = describe(stages[0])
                    figures = {**_measure(part, size, stages, log.print), "machine": machine}
                told.append({**figures, "seconds": time.monotonic() - began})
                _write(out, told)
                Console(width=200, stderr=as_json).print(table_of(figures))
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    if any(
        row.get("lost", 0) or row.get("done_twice", 0) or "given_up" in row for each in told for row in each["rows"]
    ):
        raise typer.Exit(1)


@contextmanager
def _stages(*, shared: bool) -> Generator[Callable[[int], AbstractContextManager[Sequence[Stage]]]]:
    """Give what makes the servers of a part: new ones each time, or the same ones for all."""
    with ExitStack() as stack:
        stage = stack.enter_context(servers()) if shared else None

        @contextmanager
        def several(count: int) -> Generator[Sequence[Stage]]:
            with ExitStack() as own:
                yield [stage or own.enter_context(servers()) for _ in range(count)]

        yield several


def _measure(part: str, size: Size, stages: Sequence[Stage], say: Callable[[str], None]) -> dict[str, Any]:
    stage = stages[0]
    match part:
        case "in-flight":
            return in_flight.measure(stage, size.in_flight, size.beside, say)
        case "saturation":
            return saturation.measure(stage, size.multiples, size.seconds, size.flat_out, say)
        case "growth":
            return growth.measure(stages[1], stage, size.growth, say)
        case "restart":
            return restart.measure(stage, size.open, size.beside, say)
        case _:
            return rebalance.measure(stage, size.workers, size.rate, size.between, say)


def _within(sizes: Sequence[int], most: int) -> Sequence[int]:
    return sorted({min(size, most) for size in sizes})


def _write(out: Path, told: Sequence[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
