"""The real trade, all services as deployed: latency, cost and records of trades that are started over HTTP."""
