"""The parts of SwinIR. They need timm, which takes seconds to import: only an encoder that is made imports them."""

__all__: list[str] = []
