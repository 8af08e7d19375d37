"""The local stack: PostgreSQL, Kafka, the paper venue and the services on one machine, installed from packages.

Its settings are environment variables, so that its supervisor and later commands have the same ones:
TRADESAGA_PG_BIN names the bin folder of another PostgreSQL, TRADESAGA_PG_BUFFERS its shared buffers (`256MB`),
TRADESAGA_KAFKA_HEAP the broker's heap (`512m`), TRADESAGA_MAVEN_MIRROR where Kafka's jars are fetched instead of Maven
Central.
"""
