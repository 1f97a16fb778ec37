"""Search a space of recipes for the network that meets a goal."""
