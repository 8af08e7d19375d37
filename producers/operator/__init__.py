"""Operators' actions on sagas: retry, skip, abort, compensate, recheck, resolve, release."""
