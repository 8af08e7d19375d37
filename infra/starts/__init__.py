"""Accepting starts from any producer: validated, hashed, and stored or recognised as a repeat."""
