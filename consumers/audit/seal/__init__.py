"""Seals the audit log: signs checkpoints about once a second and monitors the clock and the backlog."""
