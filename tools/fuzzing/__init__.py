"""The parts of `tools/fuzz.py`: mutators, one family for each kind of input, and a watched child."""
