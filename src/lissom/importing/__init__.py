"""Read ONNX files, build networks of ordinary layers from them, and compare with ONNX Runtime."""
