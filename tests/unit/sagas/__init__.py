"""Sagas, by example."""
