"""Training, evaluation and what the three commands share."""
