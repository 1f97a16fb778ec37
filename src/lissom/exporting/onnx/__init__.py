"""ONNX files: the export, the passes that each runtime needs, the compressed container."""
