"""Data sets of images: indexed reading of whole images as 8-bit RGB."""
from pathlib import Path

import numpy as np

from datasets.pairs import match
from datasets.parallel import in_parallel
from datasets.registry import DATASETS, Count
from datasets.store import Store
from imaging import list_images, read_rgb, read_size
from utils import UserError

_CACHES = ('none', 'in_memory', 'mapped')


class Images:
    """Images by their files; the arguments are those of `ImageFolder`."""

    def __init__(self, files: list[Path], *, data_root: str | Path, repeat: Count = 1, cache: str = 'none',
                 cache_path: str = 'decoded'):
        if cache not in _CACHES:
            raise ValueError(f"cache is {cache!r}, expected one of {', '.join(_CACHES)}")
        if repeat < 1:
            raise ValueError('repeat must be at least 1')
        self.files = files
        self.repeat = repeat
        self._decoded: Store | list[np.ndarray] | None = None
        if cache == 'mapped':
            store = Store(images=self.files, data_root=Path(data_root), folder=Path(data_root) / cache_path)
            self._decoded, self._sizes = store, store.sizes
        elif cache == 'in_memory':
            images = list(in_parallel(read_rgb, self.files, 'decoding'))
            self._decoded, self._sizes = images, [image.shape[:2] for image in images]
        else:
            self._sizes = [read_size(file) for file in self.files]

    def __len__(self) -> int:
        return len(self.files) * self.repeat

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, not to be written to."""
        index %= len(self.files)
        return read_rgb(self.files[index]) if self._decoded is None else self._decoded[index]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image; reads no file."""
        return self._sizes[index % len(self.files)]


@DATASETS.register('image-folder', provided=('data_root',))
class ImageFolder(Images):
    """The images of one folder, or of several.

    Args:
        root_path: a folder or a list of folders; relative ones start from the data root.
        list_file: text file with one file name per line, relative to the folder(s), instead of everything found there.
        first_k: keep the first k images.
        repeat: use every image this many times per pass over the data set.
        cache: 'none' decodes at every access; 'in_memory' decodes all images at the start; 'mapped' decodes them once, into
            a store on disk that later runs use again (`datasets/store.py`). The pixels are the same.
        cache_path: folder of the store; a relative one starts from the data root.
    Raises: UserError naming the folder, or the image that cannot be read; OSError where the store cannot be written.
    """

    def __init__(self, *, data_root: str | Path, root_path: str | list[str], list_file: str | None = None,
                 first_k: Count | None = None, repeat: Count = 1, cache: str = 'none', cache_path: str = 'decoded'):
        _check_first(first_k)
        if not root_path:
            raise ValueError('root_path names no folder')
        roots = [Path(data_root) / root for root in ([root_path] if isinstance(root_path, str) else root_path)]
        if list_file is None:
            files = [file for root in roots for file in list_images(root)]
        else:
            files = _read_list(Path(data_root) / list_file, roots)
        super().__init__(files[:first_k], data_root=data_root, repeat=repeat, cache=cache, cache_path=cache_path)


def _check_first(first_k: Count | None) -> None:
    if first_k is not None and first_k < 1:
        raise ValueError(f'first_k is {first_k}, expected at least 1')


def _read_list(path: Path, roots: list[Path]) -> list[Path]:
    """The files that a list names, each in the first of `roots` that has it."""
    if not path.is_file():
        raise UserError(f'{path}: no such list of images')
    names = [line.strip() for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
    if not names:
        raise UserError(f'{path}: names no image')
    files = []
    for name in names:
        found = [root / name for root in roots if (root / name).is_file()]
        if not found:
            raise UserError(f"{path}: '{name}' is not in {', '.join(map(str, roots))}")
        files.append(found[0])
    return files


@DATASETS.register('paired-image-folders', provided=('data_root',))
class PairedImageFolders:
    """Pairs of an LR image and its HR image, matched by name; see `datasets.pairs.match`.

    Args:
        root_path_1: folder of LR images.
        root_path_2: folder of HR images; larger by an integer factor, and by up to a remainder that is cut off.
        first_k, repeat, cache, cache_path: as in `image-folder`.
    """

    def __init__(self, *, data_root: str | Path, root_path_1: str, root_path_2: str, first_k: Count | None = None,
                 repeat: Count = 1, cache: str = 'none', cache_path: str = 'decoded'):
        _check_first(first_k)
        lr, hr = (list_images(Path(data_root) / root) for root in (root_path_1, root_path_2))
        pairs = match(lr, hr, first_k)  # first: decoding takes long
        self.lr, self.hr = (Images(list(files), data_root=data_root, repeat=repeat, cache=cache, cache_path=cache_path)
                            for files in zip(*pairs))
        for index in range(len(self.hr.files)):
            self.scale(index)

    def __len__(self) -> int:
        return len(self.hr)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR (h, w, 3) and HR (s·h, s·w, 3) uint8, HR cut to the multiple."""
        lr, hr = self.lr[index], self.hr[index]
        scale = self.scale(index)
        return lr, hr[:lr.shape[0] * scale, :lr.shape[1] * scale]

    def scale(self, index: int) -> int:
        """The integer factor s between a pair's images."""
        (lr_height, lr_width), (height, width) = self.lr.size(index), self.hr.size(index)
        scale = height // lr_height
        if scale < 1 or (height // scale, width // scale) != (lr_height, lr_width):
            file = self.lr.files[index % len(self.lr.files)]
            raise UserError(f'{file}: {lr_height}x{lr_width} does not divide its HR image ({height}x{width}) evenly')
        return scale
