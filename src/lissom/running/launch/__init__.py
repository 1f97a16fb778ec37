"""How the nodes of a plan are made by several workers at once: what is ready, where it runs."""
