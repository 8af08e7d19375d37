"""Answers that another participant gives for a step of ours: each of the two does it for every saga.

One registry refuses this at `check`, `up` and `run`, and a group that comes later is refused by the history; two
installations that begin on an empty topic at once are only seen here, at the first saga. Nothing is stopped for it, or
whoever can write to the topic could stop the service.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from tradesaga.consumers.participant import Participant
from tradesaga.infra.telemetry import metrics
from tradesaga.schemas.envelope import Header
from tradesaga.schemas.messages.message import wire_type

_MOST: Final = 100
"""Other owners that are named; a stranger may write any source."""


class SecondOwners:
    """Knows the answers of a participant's steps, by wire type, and tells of those that are not its own.

    `steps` has the step of each type of answer.
    """

    def __init__(self, participant: Participant) -> None:
        saga = participant.saga.name
        self._group = participant.group
        self._saga = f"/{saga}/".encode()
        self._own = ("ce_source", f"/{saga}/{participant.name}".encode())
        self._told: set[tuple[str, bytes]] = set()
        self.steps: dict[bytes, str] = {}
        for name, binding in participant.bindings.items():
            step = binding.step
            answers = (step.emits, *([step.rejects] if step.rejects else []), *(step.back or ())[1:])
            self.steps |= {wire_type(saga, each).encode(): name for each in answers}

    def look(self, ce_type: bytes, headers: Sequence[Header]) -> None:
        """Count an answer of another participant, and name it in the log the first time; runs for each answer."""
        if self._own in headers:
            return
        source = next((value or b"" for name, value in headers if name == "ce_source"), b"")
        if not source.startswith(self._saga):
            return
        step = self.steps[ce_type]
        metrics.SECOND_OWNERS.labels(self._group, step).inc()
        if (step, source) not in self._told and len(self._told) < _MOST:
            self._told.add((step, source))
            structlog.get_logger("participant").error(
                "a step has a second owner, and each of the two does it: bind it in one of them",
                step=step, group=self._group, other=source.decode("utf-8", "replace"),
            )  # fmt: skip
