"""Tasks: a network, its weights, its loss and its metrics."""
