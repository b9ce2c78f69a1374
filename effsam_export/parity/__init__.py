"""The parity check: PyTorch, the traced ONNX graph and the artefact compared by tensors and masks."""
