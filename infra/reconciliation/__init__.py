"""Holding the venue, the book and the sagas against each other."""
