"""A campaign as people read it."""

from collections.abc import Iterator

from tradesaga.consumers.testing.simulation.campaign import Tally
from tradesaga.consumers.testing.simulation.faults import CELLS, Trap
from tradesaga.consumers.testing.simulation.schedule import Result
from tradesaga.infra.failpoints import Failpoint

_TRACE_LINES = 400
_WIDTH = 6


def describe(tally: Tally) -> Iterator[str]:
    """Write the table of hits, the figures, and what failed."""
    yield from describe_hits(tally)
    yield ""
    yield ", ".join(f"{count} {name}" for name, count in sorted(tally.figures.items()))
    rate = tally.schedules / tally.seconds if tally.seconds else 0
    failed = len(tally.failed_seeds)
    yield f"{tally.schedules} schedules in {tally.seconds:.1f} s ({rate:.0f} a second), {failed} failed"
    for result in tally.failures:
        yield ""
        yield from describe_failure(result)
    if len(tally.failed_seeds) > len(tally.failures):
        yield f"further seeds that failed: {sorted(tally.failed_seeds)[len(tally.failures) :]}"


def describe_hits(tally: Tally) -> Iterator[str]:
    """Write how often each trap has sprung at each failpoint."""
    failpoints = list(Failpoint)
    letters = [chr(ord("a") + number) for number in range(len(failpoints))]
    for letter, failpoint in zip(letters, failpoints, strict=True):
        yield f"  {letter} {failpoint}"
    yield f"{'':18}" + "".join(f"{letter:>{_WIDTH}}" for letter in letters)
    for trap in Trap:
        yield f"{trap:18}" + "".join(f"{tally.hits[failpoint, trap]:{_WIDTH}}" for failpoint in failpoints)


def missed(tally: Tally) -> list[str]:
    """Return the combinations of failpoint and fault that never occurred."""
    return [f"{trap} at {failpoint}" for failpoint, trap in CELLS if not tally.hits[failpoint, trap]]


def describe_failure(result: Result) -> Iterator[str]:
    """Describe the failure of one seed, with the fewest faults that reproduce it."""
    yield f"seed {result.seed} fails; again: tradesaga simulate --seed {result.seed}"
    yield from (f"  {violation}" for violation in result.violations)
    yield f"  with {len(result.faults)} faults:"
    yield from (f"    {fault}" for fault in result.faults)
    lines = result.trace[-_TRACE_LINES:]
    if len(lines) < len(result.trace):
        yield f"  the last {len(lines)} of {len(result.trace)} lines of its trace:"
    yield from (f"  {line}" for line in lines)


def as_dict(tally: Tally) -> dict[str, object]:
    """Return the campaign for programs."""
    return {
        "schedules": tally.schedules,
        "seconds": round(tally.seconds, 3),
        "failed": sorted(tally.failed_seeds),
        "figures": dict(tally.figures),
        "hits": {f"{failpoint} x {trap}": tally.hits[failpoint, trap] for failpoint, trap in CELLS},
        "failures": [
            {
                "seed": result.seed,
                "violations": list(result.violations),
                "faults": [str(fault) for fault in result.faults],
                "trace": list(result.trace),
            }
            for result in tally.failures
        ],
    }
