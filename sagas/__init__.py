"""The pure heart: definitions of sagas, and what follows from facts. No I/O, no clock of its own."""

from tradesaga.sagas.definition import Saga, minutes, saga, seconds
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import Retry, Step, step

__all__ = ["Retry", "Saga", "Status", "Step", "minutes", "saga", "seconds", "step"]
