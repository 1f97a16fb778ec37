"""Preprocessing operations, from a decoded picture to a network's input."""
