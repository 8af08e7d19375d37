"""Lanes: one fenced writer for each input partition, which publishes its own rows in their order."""
