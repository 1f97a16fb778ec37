"""Search a space of recipes for the network that is wanted."""
