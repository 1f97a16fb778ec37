"""Distillation losses, which compare a student with its teacher; one in each file."""
