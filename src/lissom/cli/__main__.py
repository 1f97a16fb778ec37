"""`python -m lissom.cli` is the command `lissom`."""

from .main import main

main()
