"""Surgery on the layers of a network: trace, couple, prune, fold, quantize and count them."""
