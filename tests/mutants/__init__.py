"""Holes planted in the shipped code, each of which a test has to find."""
