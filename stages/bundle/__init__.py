"""What goes to a device: its manifest, the signature of that, and its check."""
