"""The saga protocol as a model whose every reachable state is visited."""
