"""The processors that start sagas: the intake of starts from Kafka, and the router of strategies' signals."""
