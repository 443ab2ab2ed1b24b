"""Models: an encoder, and a way to decode its features at any coordinate. Each file registers itself."""

__all__: list[str] = []
