"""The status of a saga."""

from enum import StrEnum


class Status(StrEnum):
    """IDLE → RUNNING → COMPLETED, or → COMPENSATING → ABORTED; FAILED needs an operator."""

    IDLE = "IDLE"
    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"

    @property
    def final(self) -> bool:
        """Return whether the saga has ended; a FAILED one waits for an operator and has not."""
        return self in {Status.COMPLETED, Status.ABORTED}
