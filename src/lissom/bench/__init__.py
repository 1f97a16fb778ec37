"""Measure how long exported files take, each in a process of its own."""
