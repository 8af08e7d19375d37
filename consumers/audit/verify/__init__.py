"""Verifying the audit log: is it unaltered, and is it complete."""
