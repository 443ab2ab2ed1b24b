"""The addresses of the data sets' archives, and the images that they must contain.

Facts only; correct an address here, or give another with -mirror. Where no checksum is given, none is known for sure: the
program prints the one that it computed, and relies on the checksums inside the archive and on the check of every image.
"""
from dataclasses import dataclass
from typing import NamedTuple


class Source(NamedTuple):
    """One mirror of an archive. Mirrors may pack the same images differently (`file`).

    Attributes:
        file: name in the folder of archives.
        url: address of the file.
        sha256: of the file, in hexadecimal; None where it is not known for sure.
    """
    file: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class Folder:
    """A folder of images as the configs expect it.

    Attributes:
        path: below the data root.
        archive: key of ARCHIVES.
        inside: the images' folder in the archive: endings of its path, one for each way of packing.
        count: number of images.
        first: file name of the first of `count` images numbered consecutively; None where names are no numbers.
        long_side: lower bound of the longer side of an image, in pixels. It tells HR images from LR images and crops.
        hr: path of the folder whose images these were made from, for LR images; NAME.png becomes NAMEx`scale`.png.
        scale: floor(HR / scale) is an LR image's size.
    """
    path: str
    archive: str
    inside: tuple[str, ...]
    count: int
    first: str | None = None
    long_side: int = 1
    hr: str | None = None
    scale: int = 1


_SCALES = (2, 3, 4)
_ETH = 'data.vision.ee.ethz.ch/cvl/DIV2K'
_SNU = 'cv.snu.ac.kr/research/EDSR'
_BERKELEY = 'eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR'


def _div2k(file: str) -> tuple[Source, ...]:
    return Source(file, f'https://{_ETH}/{file}'), Source(file, f'http://{_ETH}/{file}')


# archive → its sources, in the order in which they are tried
ARCHIVES: dict[str, tuple[Source, ...]] = {
    'DIV2K_train_HR': _div2k('DIV2K_train_HR.zip'),
    'DIV2K_valid_HR': _div2k('DIV2K_valid_HR.zip'),
    **{f'DIV2K_valid_LR_bicubic_X{s}': _div2k(f'DIV2K_valid_LR_bicubic_X{s}.zip') for s in _SCALES},
    'Flickr2K': (
        Source('Flickr2K.tar', f'https://{_SNU}/Flickr2K.tar'),
        Source('Flickr2K.tar', f'http://{_SNU}/Flickr2K.tar'),
        Source('Flickr2K.zip', 'https://huggingface.co/datasets/goodfellowliu/Flickr2K/resolve/main/Flickr2K.zip'),
    ),
    'BSDS500': (
        Source('BSR_bsds500.tgz', f'https://www2.{_BERKELEY}/BSR_bsds500.tgz'),
        Source('BSR_bsds500.tgz', f'http://www.{_BERKELEY}/BSR_bsds500.tgz'),
        Source('BSDS500-master.zip', 'https://github.com/BIDS/BSDS500/archive/refs/heads/master.zip'),
    ),
    # published results use LR images by MATLAB's bicubic; other collections made theirs differently
    'benchmark': (
        Source('benchmark.tar', f'https://{_SNU}/benchmark.tar'),
        Source('benchmark.tar', f'http://{_SNU}/benchmark.tar'),
    ),
}


def _benchmark(name: str, count: int, packed: str | None = None) -> tuple[Folder, ...]:
    """Folders of a set in the benchmark archive, where it may be packed under another name."""
    names = [packed, name] if packed else [name]
    hr = f'benchmark/{name}/HR'
    return (
        *(Folder(f'benchmark/{name}/LR_bicubic/X{s}', 'benchmark', tuple(f'{n}/LR_bicubic/X{s}' for n in names), count,
                 hr=hr, scale=s) for s in _SCALES),
        Folder(hr, 'benchmark', tuple(f'{n}/HR' for n in names), count),
    )


# data set → its folders, LR before HR, so that an evaluation that finds HR images also finds their LR images
SETS: dict[str, tuple[Folder, ...]] = {
    'DIV2K': (
        *(Folder(f'DIV2K/DIV2K_valid_LR_bicubic/X{s}', f'DIV2K_valid_LR_bicubic_X{s}', (f'DIV2K_valid_LR_bicubic/X{s}',),
                 100, hr='DIV2K/DIV2K_valid_HR', scale=s) for s in _SCALES),
        Folder('DIV2K/DIV2K_valid_HR', 'DIV2K_valid_HR', ('DIV2K_valid_HR',), 100, '0801.png', 1200),
        Folder('DIV2K/DIV2K_train_HR', 'DIV2K_train_HR', ('DIV2K_train_HR',), 800, '0001.png', 1200),
    ),
    'Flickr2K': (Folder('Flickr2K/Flickr2K_HR', 'Flickr2K', ('Flickr2K_HR', 'Flickr2K'), 2650, '000001.png', 1200),),
    # without its 100 validation images, which are BSD100
    'BSDS500': (Folder('bsds400/HR', 'BSDS500', ('images/train', 'images/test'), 400, long_side=481),),
    'Set5': _benchmark('Set5', 5),
    'Set14': _benchmark('Set14', 14),
    'BSD100': _benchmark('BSD100', 100, packed='B100'),
    'Urban100': _benchmark('Urban100', 100),
}
