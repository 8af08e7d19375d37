"""The pure heart: definitions of sagas, and what follows from facts. No I/O, no clock of its own."""

from sagas.backoff import Retry
from sagas.definition import Saga, minutes, saga, seconds
from sagas.status import Status
from sagas.step import Step, step

__all__ = ["Retry", "Saga", "Status", "Step", "minutes", "saga", "seconds", "step"]
