"""What is registered here: sagas, participants and services, by entry point and in the modules that `--app` names."""
