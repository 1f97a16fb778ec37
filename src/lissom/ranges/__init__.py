"""Ranges: how the smallest and largest value of a grid are chosen, one file each."""
