"""Small commands on checkpoints: export, average, grow."""
from engine.tools import average, export, grow

__all__ = ['average', 'export', 'grow']
