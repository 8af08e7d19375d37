"""What a person asks of `audit replay`, read and refused where it makes no sense."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tradesaga.consumers.audit.replay.as_of import Moment
from tradesaga.consumers.audit.replay.ranges import Range, read_offsets
from tradesaga.consumers.audit.replay.times import Timeline, read_moment
from tradesaga.consumers.saga_log.reading import read_saga
from tradesaga.infra.clock import SystemClock, format_time
from tradesaga.infra.errors import CommandError, ExitCode

_AHEAD: Final = 60 * 1_000_000_000
"""Nanoseconds by which this machine's clock may be behind the broker's."""


@dataclass(frozen=True)
class Request:
    """The options as they were given; `since` and `until` are those of --from and --to."""

    at: str | None = None
    clock: Timeline | None = None
    saga_id: str | None = None
    since: str | None = None
    until: str | None = None
    offsets: Sequence[str] = ()
    resume: Path | None = None
    follow: bool = False

    def check(self) -> None:
        """Raise `CommandError` (exit 2) for options that do not go together."""
        ranged = [
            name for name, given in (("--from", self.since), ("--to", self.until), ("--offsets", self.offsets)) if given
        ]
        moment = [name for name, given in (("--clock", self.clock), ("--id", self.saga_id)) if given]
        if self.at is None and moment:
            raise _usage(f"{moment[0]} is of no use without --at", moment[0], "add --at TIME, or leave it out")
        if self.at is not None and ranged:
            raise _usage(f"--at and {ranged[0]} exclude each other", ranged[0], "give one of them")
        if self.follow and (self.at is not None or ranged):
            other = "--at" if self.at is not None else ranged[0]
            raise _usage(f"--follow and {other} exclude each other", other, "give one of them")

    def moment(self) -> Moment | None:
        """Give the moment that is asked about; raises `CommandError` (exit 2)."""
        if self.at is None:
            return None
        at = read_moment(self.at, "--at")
        if at > SystemClock().now() + _AHEAD:
            raise _usage(f"{format_time(at)} has not come yet", "--at", "ask about a moment that has passed")
        saga_id = None
        if self.saga_id is not None and (saga_id := read_saga(self.saga_id.lower().encode())) is None:
            raise _usage(f"{self.saga_id!r} is no saga id", "--id", "give all of it, as `tradesaga list` shows it")
        return Moment(at, self.clock or Timeline.RECORDED, saga_id)

    def range(self, topic: str, partitions: int) -> Range:
        """Give the range that is asked for; raises `CommandError` (exit 2)."""
        since = None if self.since is None else read_moment(self.since, "--from")
        until = None if self.until is None else read_moment(self.until, "--to")
        if since is not None and until is not None and until <= since:
            raise _usage("--to is not after --from", "--to", "give a later time")
        return Range(since, until, read_offsets(self.offsets, topic, partitions))


def _usage(what: str, where: str, do: str) -> CommandError:
    return CommandError("usage", what, where, do, ExitCode.USAGE)
