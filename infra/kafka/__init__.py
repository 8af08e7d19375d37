"""Kafka: clients, topics and their settings, records and their encoding, identity, lag, dead letters."""
