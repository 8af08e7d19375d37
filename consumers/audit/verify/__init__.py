"""Verifies that the audit log is unaltered and complete."""
