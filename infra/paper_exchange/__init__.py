"""The paper venue: a small exchange of its own process, with real prices, a durable ledger, and faults on request."""
