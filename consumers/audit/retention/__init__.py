"""Retention of the audit log: its schedule, legal holds, and retiring and dropping partitions."""
