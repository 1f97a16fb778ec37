"""The work of the commands explain, inspect, export, bench and store, without the command line."""
