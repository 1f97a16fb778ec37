"""What `tools/fuzz.py` is made of: mutators, one family for each thing that lissom reads, and a
watched child.
"""
