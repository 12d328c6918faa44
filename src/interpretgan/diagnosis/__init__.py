"""The diagnosis: how much of a classifier's loss of accuracy under attack each layer contributes."""
