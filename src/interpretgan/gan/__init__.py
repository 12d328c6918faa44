"""The generative part: one generator for all cuts, one discriminator, their losses and their training."""
