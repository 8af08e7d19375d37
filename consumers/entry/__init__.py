"""Where sagas begin: the intake of starts from Kafka, and the router of strategies' signals."""
