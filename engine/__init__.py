"""Training, evaluation and what the three commands share."""

__all__: list[str] = []
