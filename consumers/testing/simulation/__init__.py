"""Deterministic simulation: the shipped step path in one thread, on a virtual clock, among faults drawn from a seed."""

from tradesaga.consumers.testing.simulation.effects import FarSide, take_effect
from tradesaga.consumers.testing.simulation.samples import Report, SimulatedSaga
from tradesaga.consumers.testing.simulation.schedule import Result, run

__all__ = ["FarSide", "Report", "Result", "SimulatedSaga", "run", "take_effect"]
