"""Plots of the benchmarks, by matplotlib: an extra that nothing else needs."""
from utils import UserError


def new_axes() -> tuple:
    """A figure with room for one plot, and its axes. Raises UserError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('plots need matplotlib: pip install "matplotlib>=3.8"') from error
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    return figure, figure.add_subplot()
