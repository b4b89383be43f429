"""What goes to a device: what the bundle says of itself, its manifest, the signature, the check."""
