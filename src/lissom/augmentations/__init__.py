"""Augmentations of training images; one in each file."""
