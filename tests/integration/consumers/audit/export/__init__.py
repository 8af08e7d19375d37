"""Exports of the audit log: made on a real database, read by hostile hands, and by a verifier of its own."""
