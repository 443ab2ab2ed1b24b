"""Factors of upscaling: one for both axes, a number, or one per axis, the text '2x3' (height by width)."""
import math
import re

AnyScale = float | str
_NUMBER = r'[0-9]{1,9}(?:\.[0-9]{1,9})?'


def parse_scale(text: str) -> AnyScale | None:
    """'2', '2.5' or '2x3' → a scale; None for anything but finite factors of at least 1. '2x2' is 2."""
    found = re.fullmatch(rf'({_NUMBER})(?:x({_NUMBER}))?', text)
    if found is None:
        return None
    height, width = float(found[1]), float(found[2] or found[1])
    if min(height, width) < 1:
        return None
    return height if height == width else f'{height:.12g}x{width:.12g}'


def is_scale(value: object) -> bool:
    """Whether a value is a scale: a finite number of at least 1, or two different ones as `parse_scale` writes them."""
    if isinstance(value, str):
        return parse_scale(value) == value
    return isinstance(value, (int, float)) and 1 <= value < math.inf


def factors(scale: AnyScale) -> tuple[float, float]:
    """(of the height, of the width)."""
    if isinstance(scale, str):
        height, width = map(float, scale.split('x'))
        return height, width
    return scale, scale


def scale_text(scale: AnyScale) -> str:
    """'2', '2.5', '2x3'."""
    return scale if isinstance(scale, str) else f'{scale:g}'
