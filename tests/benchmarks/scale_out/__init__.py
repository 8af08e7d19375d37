"""How far the product scales out: measured on a network with delays, computed from that, and simulated as a check."""
