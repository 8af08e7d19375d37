"""The sealed audit log: Merkle trees over records, and checkpoints signed over their roots."""
