"""Run a bundle on images with prompts. No torch."""
