"""The parity checker: PyTorch against the traced graph against the artefact, judged on masks."""
