"""Transforms of the weight of a layer: each file is one transform (../transform.py)."""
