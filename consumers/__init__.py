"""What reacts to facts: participants, the saga log, intake."""

from tradesaga.consumers.participant import CompensationImpossibleError, Participant, StepContext, Work

__all__ = ["CompensationImpossibleError", "Participant", "StepContext", "Work"]
