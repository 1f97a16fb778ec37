"""Importance: how the channels of a layer are ranked, one file each."""
