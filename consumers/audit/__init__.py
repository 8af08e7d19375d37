"""The audit trail: sealed, verified, and told."""
