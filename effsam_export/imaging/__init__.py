"""Images, resizing, masks and instances as numpy arrays."""
