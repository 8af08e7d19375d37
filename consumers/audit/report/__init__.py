"""`tradesaga audit show`: the report of one saga from its rows of the audit log."""
