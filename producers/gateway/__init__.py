"""The HTTP API: trades are started and looked at; loopback only, until there is access control."""
