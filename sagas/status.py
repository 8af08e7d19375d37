"""The six states of a saga."""

from enum import StrEnum


class Status(StrEnum):
    """IDLE → RUNNING → COMPLETED, or → COMPENSATING → ABORTED; FAILED is where a person is needed."""

    IDLE = "IDLE"
    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"

    @property
    def final(self) -> bool:
        """Say whether nothing more is expected; FAILED waits for a person, so it is not."""
        return self in {Status.COMPLETED, Status.ABORTED}
