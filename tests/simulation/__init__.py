"""The simulation: many schedules, the same from the same seed, and as the real servers would have it."""
