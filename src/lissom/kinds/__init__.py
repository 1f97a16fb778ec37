"""Kinds of task: what the answers of a network mean, and how they are judged."""
