"""The audit trail at size: a million facts sealed, verified, replayed, exported, and verified with nothing in reach."""
