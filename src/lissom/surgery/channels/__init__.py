"""Channels: which belong together, which can go, and how they are cut out."""
