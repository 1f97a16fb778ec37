"""Preprocessing operations, from a decoded image to a network's input."""
