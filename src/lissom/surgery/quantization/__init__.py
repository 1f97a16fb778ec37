"""Quantization: where numbers are rounded, to which values, and what is learned of it."""
