"""What puts facts on Kafka: starts, signals, the venue feed, the operator desk."""
