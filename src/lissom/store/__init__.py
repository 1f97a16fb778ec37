"""Finished networks on disk: entries, records, saved networks, signatures."""
