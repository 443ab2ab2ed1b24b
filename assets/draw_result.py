"""Draws assets/result.png: details of the bundled sample at ×4 by bicubic and by a model, beside the original.

    python assets/draw_result.py [-model MSIT-S]
"""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the project is not installed

if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

from PIL import Image, ImageDraw, ImageFont  # noqa: E402

import models  # noqa: E402
from common.arrays import to_tensor  # noqa: E402
from common.cli import Parser, run  # noqa: E402
from imaging import open_image, read_rgb, save_image, to_image  # noqa: E402

DETAILS = ((490, 226, 670, 326), (584, 84, 764, 184))  # left, top, right, bottom in the original: the sails, the lighthouse
ZOOM, GAP, CAPTION = 2, 6, 26


def main() -> None:
    parser = Parser(description='Draws assets/result.png.')
    parser.option('model', default='MSIT-S', metavar='FILE', help='the model to show')
    options = parser.parse_args()
    original = open_image(HERE / 'harbour_original.png').convert('RGB')
    lr = to_tensor(read_rgb(HERE / 'harbour.png')).unsqueeze(0)                      # (1, 3, H, W)
    columns = {
        'low resolution': to_image(lr[0]).resize(original.size, Image.Resampling.NEAREST),
        'bicubic x4': to_image(models.load('bicubic').upscale(lr, original.size[::-1])[0]),
        f'{Path(options.model).stem} x4': to_image(models.load(options.model).upscale(lr, original.size[::-1])[0]),
        'original': original,
    }
    save_image(arrange(columns), HERE / 'result.png')


def arrange(columns: dict[str, Image.Image]) -> Image.Image:
    """One column per image with its caption, one row per detail."""
    width, height = (ZOOM * (DETAILS[0][i + 2] - DETAILS[0][i]) for i in (0, 1))
    sheet = Image.new('RGB', (len(columns) * (width + GAP) - GAP, CAPTION + len(DETAILS) * (height + GAP) - GAP), 'white')
    font = ImageFont.load_default(size=18)
    for column, (caption, image) in enumerate(columns.items()):
        left = column * (width + GAP)
        ImageDraw.Draw(sheet).text((left + width // 2, CAPTION // 2), caption, 'black', font, anchor='mm')
        for row, box in enumerate(DETAILS):
            detail = image.crop(box).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(detail, (left, CAPTION + row * (height + GAP)))
    return sheet


if __name__ == '__main__':
    run(main)
