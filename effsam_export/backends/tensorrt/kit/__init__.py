"""Scripts that are copied into a bundle and run on a device without this package.

They need Python 3.10, numpy, the device's own `tensorrt` and (for the check) Pillow.
"""
