"""Runtimes: how a network becomes a file for one, and how that file is run. No torch is needed to run it."""
