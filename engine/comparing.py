"""An image of two: bicubic on the left, the result on the right, each under its name."""
from PIL import Image, ImageDraw, ImageFont

from engine.jobs import Job
from engine.windows import read_for_screen
from imaging import save_image

GAP = 8                  # pixels between the two
SMALLEST, SHARE = 12, 24  # of a letter: pixels, and one part in so many of the image's shorter side


def write_comparison(job: Job, label: str, value_range: tuple[float, float] | None) -> None:
    """Writes the comparison of a job whose target is written, from both files as screens show them.

    Of animations it shows the first frame.

    Args:
        label: the name of the model.
        value_range: of `FileOptions`.
    """
    right = Image.fromarray(read_for_screen(job.target))
    lr = Image.fromarray(read_for_screen(job.file, value_range))
    left = lr.resize(right.size, Image.Resampling.BICUBIC)
    assert job.comparison is not None
    save_image(side_by_side([('bicubic', left), (label, right)]), job.comparison)


def side_by_side(images: list[tuple[str, Image.Image]]) -> Image.Image:
    """Images of one size beside each other on white, each under its label."""
    width, height = images[0][1].size
    letters = max(SMALLEST, min(width, height) // SHARE)
    strip = 2 * letters
    whole = Image.new('RGB', (len(images) * (width + GAP) - GAP, strip + height), 'white')
    draw = ImageDraw.Draw(whole)
    for number, (label, image) in enumerate(images):
        left = number * (width + GAP)
        draw.text((left + width / 2, strip / 2), label, fill='black', font=ImageFont.load_default(letters), anchor='mm')
        whole.paste(image, (left, strip))
    return whole
