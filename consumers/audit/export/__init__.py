"""Signed exports of the audit log, which can be verified without a server."""
