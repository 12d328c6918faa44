"""What lies on disk: atomic files, checkpoints, network files, metrics, and where a result comes from."""
