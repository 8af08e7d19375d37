"""Sealing the audit log: signed checkpoints about once a second, and the watches over clock and backlog."""
