"""The generative part: one generator for all layers, one discriminator, their losses and their training."""
