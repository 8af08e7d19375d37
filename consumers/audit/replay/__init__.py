"""Folds topics again and compares the result with the database: once, at a time in the past, or continuously."""
