"""The one error that a command shows to a person or a script."""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says to a script."""

    FINE = 0
    CHECK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


@dataclass
class CommandError(Exception):
    """What went wrong, where, and what to do; `code` is a stable slug that scripts may compare."""

    code: str
    what: str
    where: str
    do: str
    exit_code: ExitCode = ExitCode.CHECK_FAILED

    def __str__(self) -> str:
        """Return one sentence."""
        return f"{self.what} ({self.where}): {self.do}"

    def as_json(self) -> dict[str, dict[str, str]]:
        """Give the shape that `--json` prints on stderr."""
        return {"error": {"code": self.code, "what": self.what, "where": self.where, "do": self.do}}


def unavailable(code: str, what: str, where: str, do: str) -> CommandError:
    """Say that a server, a port, a download or the disk is not there: exit code 5."""
    return CommandError(code, what, where, do, ExitCode.UNAVAILABLE)
