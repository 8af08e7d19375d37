"""Reads the audit log and its checkpoints from PostgreSQL, and folds records as the saga log does."""
