"""Ranges: what smallest and largest value a grid is laid over, a file each."""
