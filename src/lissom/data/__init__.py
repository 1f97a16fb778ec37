"""Images to learn from, to choose by and to be judged by."""
