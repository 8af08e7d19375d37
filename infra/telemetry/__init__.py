"""Metrics, logs, spans and health probes of a process."""
