"""The HTTP API, which starts and shows trades; on loopback only, until there is access control."""
