"""Object detection: decoding and matching of boxes, average precision, assignment, loss."""
