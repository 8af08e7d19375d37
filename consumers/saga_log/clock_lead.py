"""How far the database's clock, which calls deadlines, is ahead of the broker's, which judges them."""

from dataclasses import dataclass
from typing import Final

import structlog

from tradesaga.consumers.saga_log.checkpoint import Tracked
from tradesaga.consumers.saga_log.outcome import Outcome

_TOLD: Final = 1.0
"""Seconds from which a difference is told, and a deadline counts as late."""


@dataclass
class ClockLead:
    """Learned from the deadlines that come back; without it an early one would be published again and again."""

    seconds: float = 0.0

    def learn(self, before: Tracked, outcome: Outcome) -> None:
        """Look at a deadline that was published by us: early, it shows how far ahead; late, that we hold back too long.

        One that somebody else has sent shows nothing: ours is still pending then. Nor does one that follows another.
        """
        checkpoint = before.checkpoint
        if checkpoint is None or checkpoint.deadline_pending or checkpoint.state.unblocked:
            return
        late = (outcome.record.recorded_ms - checkpoint.deadline_ms) / 1000
        if -late > self.seconds:
            self.seconds = -late
            if self.seconds > _TOLD:
                ahead = round(self.seconds, 1)
                structlog.get_logger("saga-log").warning("the database's clock is ahead of the broker's", seconds=ahead)
        elif late > _TOLD:
            self.seconds = max(0.0, self.seconds - late)
