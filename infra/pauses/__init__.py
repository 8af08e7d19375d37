"""Pauses of sagas, accounts and venues by operators."""
