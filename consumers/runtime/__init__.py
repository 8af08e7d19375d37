"""The participant runtime: reads messages, runs handlers, writes step rows and publishes events."""
