"""Everything replaceable: settings, database, Kafka, venues, metrics, the local stack."""
