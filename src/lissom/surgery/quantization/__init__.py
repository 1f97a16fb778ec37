"""Quantization: where values are rounded, to which grids, and how rounding is learned."""
