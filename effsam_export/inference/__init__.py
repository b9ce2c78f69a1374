"""Run a bundle on images. No torch."""
