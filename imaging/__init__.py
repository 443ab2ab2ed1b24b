"""Reading and writing images: the only place where image files are opened.

    datasets, metrics   open_image, read_rgb, read_size      8 bits, by Pillow, as the benchmarks define it
    upscaling           read_frames → Frame → Canvas          any mode and depth, transparency, metadata, animations
"""
from imaging.animation import Animation
from imaging.canvas import Canvas
from imaging.colour import suited
from imaging.formats import (
    DEFAULTS,
    FORMAT_NAMES,
    INPUT_SUFFIXES,
    MAX_PIXELS,
    MAX_QUALITY,
    OUTPUT_SUFFIXES,
    SUFFIXES,
    Format,
    WriteOptions,
    check_size,
    check_target,
    find_format,
)
from imaging.frame import Frame, Metadata
from imaging.frames import Header, read_frames, read_header, read_image
from imaging.reading import check_file, list_images, open_image, read_rgb, read_size, to_rgb
from imaging.writing import save_image, to_image

__all__ = ['DEFAULTS', 'FORMAT_NAMES', 'INPUT_SUFFIXES', 'MAX_PIXELS', 'MAX_QUALITY', 'OUTPUT_SUFFIXES', 'SUFFIXES',
           'Animation', 'Canvas', 'Format', 'Frame', 'Header', 'Metadata', 'WriteOptions', 'check_file', 'check_size',
           'check_target', 'find_format', 'list_images', 'open_image', 'read_frames', 'read_header', 'read_image',
           'read_rgb', 'read_size', 'save_image', 'suited', 'to_image', 'to_rgb']
