"""Hypothesis as unit and property tests need it: a busy machine is no counterexample."""

from hypothesis import HealthCheck, settings


def load() -> None:
    """Take neither a slow example nor slow generation for a failure."""
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
