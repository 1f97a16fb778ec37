"""Networks in ONNX files: read, built of ordinary layers, compared with ONNX Runtime."""
