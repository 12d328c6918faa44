"""The architectures that this package can build."""
