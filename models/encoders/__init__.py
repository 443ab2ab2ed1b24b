"""Encoders: an LR image → features at its resolution. Each file registers itself."""

__all__: list[str] = []
