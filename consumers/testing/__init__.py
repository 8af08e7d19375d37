"""Running shipped code without servers: the deterministic simulation."""
