"""Servers in clusters: three brokers, a database with a standby; whichever dies, nothing is lost or doubled."""
