"""Compatibility of messages: recorded contracts, and the rules for changes."""
