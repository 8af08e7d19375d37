"""B: processes are stopped past their session and go on as if nothing had happened."""

import asyncio
import signal
from contextlib import suppress
from typing import Final

import psutil

from tests.faults.crew import Member
from tests.faults.stage import Stage
from tests.waiting import until
from tradesaga.infra.failpoints import Failpoint

IN_TRANSACTION: Final = 9.5
"""Seconds after which PostgreSQL has ended the session of a process that was stopped in a transaction."""
LONGEST: Final = 30.0
"""Seconds after which a process goes on though nobody has claimed its lanes."""
CLAIMED: Final = b"lanes acquired"
_POINTS: Final = {
    Failpoint.BEFORE_COMMIT: "inside an open transaction",
    Failpoint.AFTER_COMMIT: "between commit and publish",
    Failpoint.IN_PUBLISH: "in mid-batch",
    Failpoint.BEFORE_MARK: "before its mark",
}
_FENCED: Final = (Failpoint.AFTER_COMMIT, Failpoint.BEFORE_MARK)
"""Where the first thing that a process does when it goes on is to write what is another's by now."""


async def stop_at_points(stage: Stage) -> None:
    """Stop one process of each service at a place of its own, all at once."""
    services = ["desk", "market", "log"]
    points = [*_FENCED, stage.chance.choice([Failpoint.BEFORE_COMMIT, Failpoint.IN_PUBLISH])]
    stage.chance.shuffle(points)
    pairs = [(stage.pick(service), point) for service, point in zip(services, points, strict=True)]
    told = ", ".join(f"{member.name} {_POINTS[point]}" for member, point in pairs)
    async with stage.fault(f"stop {told}"):
        await asyncio.gather(*(_stop_at(stage, member, point) for member, point in pairs))


async def stop_anywhere(stage: Stage) -> None:
    """Stop one process wherever it stands."""
    member = stage.pick("desk", "market", "log")
    async with stage.fault(f"stop {member.name} wherever it stands"):
        await _outsleep(stage, member, 0.0)


async def stop_between_batches(stage: Stage) -> None:
    """Stop a process, its partner being killed meanwhile, so that its lanes change hands twice."""
    member = stage.pick("desk", "log")
    async with stage.fault(f"stop {member.name}, kill its partner meanwhile"):
        await _outsleep(stage, member, 0.0, then=signal.SIGKILL)


async def _stop_at(stage: Stage, member: Member, point: Failpoint) -> None:
    member.arm("stop", point, 1 if point is Failpoint.BEFORE_MARK else stage.chance.randint(1, 3))
    for _ in range(160):
        if _is_stopped(member):
            break
        await asyncio.sleep(0.05)
    member.disarm()  # or it would stop some time later, with nobody to let it go on
    await _outsleep(stage, member, IN_TRANSACTION if point is Failpoint.BEFORE_COMMIT else 0.0)


async def _outsleep(stage: Stage, member: Member, least: float, then: signal.Signals | None = None) -> None:
    """Keep a process stopped until its partner has claimed its lanes, or till no partner would; then let it go on."""
    partner = next(other for other in stage.crew.of(member.service) if other is not member)
    before = partner.count(CLAIMED)

    async def claimed() -> bool:
        return partner.count(CLAIMED) > before

    member.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(max(least, stage.session_seconds))
        with suppress(TimeoutError):
            await until(claimed, LONGEST)
        if then is not None:
            partner.send(then)
            await asyncio.sleep(1.0)
    finally:
        member.send(signal.SIGCONT)


def _is_stopped(member: Member) -> bool:
    if member.process is None or member.process.returncode is not None:
        return True
    try:
        return psutil.Process(member.process.pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True
