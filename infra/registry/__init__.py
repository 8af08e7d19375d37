"""Registered sagas, participants and services, from entry points and from the modules that `--app` names."""
