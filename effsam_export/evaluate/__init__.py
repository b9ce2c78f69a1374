"""Mask IoU of bundles with annotated images, beside the PyTorch reference."""
