"""Disasters: a database or a broker is lost, and everything goes on from what is left."""
