"""Real servers from packages alone: PostgreSQL, Kafka, the paper venue and the services on one machine."""
