"""Importance: how the channels of a layer are ranked, a file each."""
