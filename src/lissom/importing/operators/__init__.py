"""What each operator of ONNX becomes: one file for each family."""
