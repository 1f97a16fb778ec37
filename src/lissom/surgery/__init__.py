"""Change the layers of a network: what is coupled, how it is cut, folded, quantized and counted."""
