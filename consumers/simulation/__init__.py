"""Deterministic simulation: the shipped step path in one thread, on a virtual clock, among faults drawn from a seed."""

from consumers.simulation.effects import FarSide, take_effect
from consumers.simulation.schedule import Result, run
from consumers.simulation.subject import Report, Subject

__all__ = ["FarSide", "Report", "Result", "Subject", "run", "take_effect"]
