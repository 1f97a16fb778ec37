"""How a network becomes a file: what several targets share."""
