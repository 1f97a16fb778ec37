"""Measure the latency of exported files, each in a process of its own.

Facts that depend on the operating system have one file each: memory.py, threads.py, cores.py,
machine.py, energy.py. They come from psutil, or from files below /proc and /sys if these exist. A
fact that the system does not report is None, or missing in the record; it is never guessed.
"""
