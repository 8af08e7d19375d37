"""Pure core: saga definitions, the state machine, and the rules of step rows. No I/O and no clock."""

from tradesaga.sagas.definition import Saga, minutes, saga, seconds
from tradesaga.sagas.status import Status
from tradesaga.sagas.step import Retry, Step, step

__all__ = ["Retry", "Saga", "Status", "Step", "minutes", "saga", "seconds", "step"]
