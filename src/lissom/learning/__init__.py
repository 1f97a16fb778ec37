"""Training: the loop, checkpoints, batch-norm, and evaluation."""
