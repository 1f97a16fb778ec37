"""Grids: the values that numbers are rounded to, a file each."""
