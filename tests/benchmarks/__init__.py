"""Benchmarks: run by `make bench`, never timed by tests."""
