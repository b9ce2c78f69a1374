"""Tracing to ONNX, reading ONNX files, and graph passes."""
