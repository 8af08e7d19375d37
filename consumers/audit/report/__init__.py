"""The story of one saga, told from its rows of the audit log."""
