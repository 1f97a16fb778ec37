"""Kinds of task: the meaning of a network's outputs, their loss and their metrics."""
