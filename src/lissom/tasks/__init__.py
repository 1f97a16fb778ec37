"""What a user brings: a network, its weights, its loss and its metrics."""
