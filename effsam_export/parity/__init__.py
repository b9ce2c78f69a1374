"""The parity check: PyTorch, the traced ONNX graph and the artefact, compared by their masks."""
