"""`python -m lissom` is the command `lissom`, and so is `torchrun -m lissom`."""

from .cli.main import main

main()
