"""What the page accepts and keeps, and how it says no."""
from typing import NamedTuple


class Limits(NamedTuple):
    """Bounds of the page.

    Attributes:
        bytes: of an uploaded file.
        pixels: of an uploaded image.
        all_pixels: of all images that are held at a time.
        images: that are held at a time.
        view_pixels: of a view.
        result_pixels: of an upscaled image.
        idle: seconds without a request after which an image is deleted.
    """
    bytes: int = 2 ** 26
    pixels: int = 2 ** 25
    all_pixels: int = 2 ** 26
    images: int = 32
    view_pixels: int = 2 ** 20
    result_pixels: int = 2 ** 27
    idle: float = 1800


class Refused(Exception):
    """A request that is answered by an HTTP status and one line for the user."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
