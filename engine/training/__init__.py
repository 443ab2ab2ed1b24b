"""Training: one optimiser, one schedule, checkpoints that resume exactly."""

__all__: list[str] = []
