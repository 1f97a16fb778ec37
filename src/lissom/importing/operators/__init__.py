"""Translate each operator of ONNX into layers and calls: one file per family."""
