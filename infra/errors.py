"""The error that commands report."""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of commands."""

    FINE = 0
    CHECK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


@dataclass
class CommandError(Exception):
    """What went wrong, where, and what to do; `code` is a stable identifier for scripts."""

    code: str
    what: str
    where: str
    do: str
    exit_code: ExitCode = ExitCode.CHECK_FAILED

    def __str__(self) -> str:
        """Return one sentence."""
        return f"{self.what} ({self.where}): {self.do}"

    def as_json(self) -> dict[str, dict[str, str]]:
        """Return the object that `--json` prints on stderr."""
        return {"error": {"code": self.code, "what": self.what, "where": self.where, "do": self.do}}


def unavailable(code: str, what: str, where: str, do: str) -> CommandError:
    """Return the error for an unavailable server, port, download or disk (exit 5)."""
    return CommandError(code, what, where, do, ExitCode.UNAVAILABLE)
