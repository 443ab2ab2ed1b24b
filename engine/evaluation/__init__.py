"""Evaluation: a model on a set (`evaluate`), suites of models and sets (`suite`, `comparison`), results and tables."""

__all__: list[str] = []
