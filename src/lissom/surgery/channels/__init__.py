"""Channels: which must be removed together, which can be removed, and how to slice them out."""
