"""The signal router: strategies' signals, by each account's rules, become starts."""
