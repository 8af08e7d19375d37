"""Hypothesis as these properties need it: a busy machine is no counterexample."""

from hypothesis import HealthCheck, settings

settings.register_profile("properties", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("properties")
