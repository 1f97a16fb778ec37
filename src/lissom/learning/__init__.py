"""Training: the loop, its checkpoints, batch-norm, and how well a network does."""
