"""The diagnosis: how much of the loss of accuracy each layer contributes."""
