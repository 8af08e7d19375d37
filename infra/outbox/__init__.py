"""Lanes and their outbox: one fenced writer for each input partition, which publishes its rows in order."""
