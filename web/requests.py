"""What requests hold, checked, and images as answers."""
import io
import re

import numpy as np
from PIL import Image
from starlette.requests import Request

from engine.windows import Window
from web.images import HeldImage
from web.limits import Refused


def read_number(request: Request, name: str) -> int:
    """A whole number of at most 15 digits."""
    text = request.query_params.get(name, '')
    if not re.fullmatch(r'[0-9]{1,15}', text):
        raise Refused(400, f'{name}: expected a whole number')
    return int(text)


def read_size(request: Request) -> tuple[int, int]:
    """'size=H,W', each from 1 to 1,000,000."""
    text = request.query_params.get('size', '')
    if not re.fullmatch(r'[0-9]{1,7},[0-9]{1,7}', text):
        raise Refused(400, 'size: expected height,width in pixels')
    height, width = map(int, text.split(','))
    if not (1 <= height <= 10 ** 6 and 1 <= width <= 10 ** 6):
        raise Refused(400, 'size: expected a height and width from 1 to 1,000,000')
    return height, width


def read_window(request: Request, held: HeldImage) -> Window:
    """'window=TOP,LEFT,BOTTOM,RIGHT' inside the image."""
    text = request.query_params.get('window', '')
    number = r'[0-9]{1,9}(?:\.[0-9]{1,17})?'
    if not re.fullmatch(rf'{number}(?:,{number}){{3}}', text):
        raise Refused(400, 'window: expected top,left,bottom,right in pixels')
    window = Window(*map(float, text.split(',')))
    if not (window.top < window.bottom <= held.image.height and window.left < window.right <= held.image.width):
        raise Refused(400, f'window: expected one inside 0,0,{held.image.height},{held.image.width}')
    return window


def as_png(rgb: np.ndarray) -> bytes:
    """(H, W, 3) uint8 → a PNG file, compressed quickly."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, 'PNG', compress_level=1)
    return file.getvalue()
