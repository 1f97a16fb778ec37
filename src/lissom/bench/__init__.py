"""Measure how long exported files take, each in a process of its own.

What only one system tells is asked for in one file each: memory.py, threads.py, cores.py,
machine.py, energy.py. They ask psutil where it knows, and read files below /proc and /sys where
these are there. What a system does not tell is None, or not in the record; it is never guessed.
"""
