"""Training: one optimiser, one schedule, checkpoints that resume exactly."""
