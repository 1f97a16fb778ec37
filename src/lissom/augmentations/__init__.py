"""Augmentations of training pictures; one in each file."""
