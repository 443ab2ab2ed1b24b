"""What the page accepts and keeps, and how it says no."""
from typing import NamedTuple

from utils import RunError, UserError, is_out_of_memory


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


def explained(error: Exception) -> str:
    """One line for the user about an error of the model or of the machine; empty for one that nobody expects."""
    if is_out_of_memory(error):
        return 'there is not enough memory for this; try a smaller size, or try again later'
    if isinstance(error, OSError):
        return f'a file cannot be written ({error.strerror or error})'
    return str(error) if isinstance(error, (UserError, RunError)) else ''
