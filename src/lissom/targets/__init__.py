"""Runtimes: how each exports a network to a file and runs the file. Running needs no torch."""
