"""What every part builds on: coordinates, registries, arrays and tensors, the command line."""

__all__: list[str] = []
