"""The command line: options, and one file for each family of commands."""
