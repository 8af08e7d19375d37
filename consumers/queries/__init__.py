"""Sagas for people: one, many, live, and what one is waiting for."""
