"""Reading and writing images: the only place where image files are opened."""
from imaging.reading import SUFFIXES, list_images, open_image, read_rgb, read_size, to_rgb
from imaging.writing import save_image, to_image

__all__ = ['SUFFIXES', 'list_images', 'open_image', 'read_rgb', 'read_size', 'save_image', 'to_image', 'to_rgb']
