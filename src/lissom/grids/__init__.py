"""Grids: the values that numbers are rounded to, one file each."""
