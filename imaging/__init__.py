"""Reading and writing images: the only place where image files are opened."""
from imaging.reading import MAX_PIXELS, SUFFIXES, check_file, list_images, open_image, read_rgb, read_size, to_rgb
from imaging.writing import check_size, save_image, to_image

__all__ = ['MAX_PIXELS', 'SUFFIXES', 'check_file', 'check_size', 'list_images', 'open_image', 'read_rgb', 'read_size',
           'save_image', 'to_image', 'to_rgb']
