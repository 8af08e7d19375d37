"""The sealed audit log: Merkle trees over records, and signed checkpoints of their roots."""
