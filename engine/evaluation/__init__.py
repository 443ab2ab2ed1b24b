"""Evaluation: metrics, protocols, results and tables."""
