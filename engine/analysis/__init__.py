"""Numbers behind the figures: what networks compute inside, and what their outputs depend on. Nothing here draws."""

__all__: list[str] = []
