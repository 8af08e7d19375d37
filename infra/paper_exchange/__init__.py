"""The paper venue: a small exchange in a separate process, with real prices, a durable ledger and fault injection."""
