"""LR and HR images are matched by name, and what has no partner is refused by name."""
from pathlib import Path

import numpy as np
import pytest
from helpers import message, save

from datasets.image_folder import PairedImageFolders
from datasets.pairs import match


def files(folder: str, names: str) -> list[Path]:
    return [Path(folder) / (name if '.' in name[-5:] else f'{name}.png') for name in names.split()]


@pytest.mark.parametrize(('lr', 'hr'), [
    ('a b c', 'a b c'),
    ('a.png b.jpg', 'a.bmp b.tif'),
    ('0801x2 0802x2', '0801 0802'),                                  # DIV2K
    ('a-bx3 ax3', 'a a-b'),                                          # their order differs: '-' < 'x'
    ('ax2.5.png bx2.5.png', 'a b'),
    ('ax2x3 b_X4', 'a b'),
    ('ax2x2 ax2', 'ax2 a'),                                          # names of images that end like a factor
    ('img_001_LR img_002_LR', 'img_001_HR img_002_HR'),
    ('img_001_LRBI_x4 img_002_LRBI_x4', 'img_001_HR img_002_HR'),    # Urban100 as others distribute it
    ('Canon_001_LR4 Canon_002_LR4', 'Canon_001_HR Canon_002_HR'),    # RealSR
    ('lr_a lr_b', 'a b'), ('a b', 'a-gt b-gt'), ('lr.a.png lr.b.png', 'hr.a.png hr.b.png'),
    ('one', 'one'), ('onex4', 'one')])
def test_partners(lr, hr):
    """Written in the order of their partners, wherever the names are not those of a case of its own."""
    lr_files, hr_files = files('lr', lr), files('hr', hr)
    if lr == 'a-bx3 ax3':
        hr_files = hr_files[::-1]
    assert match(lr_files, hr_files) == list(zip(lr_files, hr_files))
    assert match(lr_files, hr_files[::-1]) == list(zip(lr_files, hr_files))


@pytest.mark.parametrize(('lr', 'hr', 'words'), [
    ('b c z', 'a b c', ["1 of 3 LR images have no partner ('z.png')", "1 of 3 HR images have no partner ('a.png')"]),
    ('a b', 'a', ["1 of 2 LR images have no partner ('b.png')"]),
    ('ax2', 'a b c d e f', ["5 of 6 HR images have no partner ('b.png', 'c.png', 'd.png', …)"]),
    ('ax2 bx2', 'a c', ["('bx2.png')", "('c.png')"]),
    ('a_1 a_2', 'b_3 b_4', ['2 of 2 LR', '2 of 2 HR']),
    ('2019_1 2019_2', '2020_1 2020_2', ['2 of 2 LR']),               # digits belong to the number of an image
    ('10 11', '20 21', ['2 of 2 LR']),
    ('cat car', 'bat bar', ['2 of 2 LR']),                           # not set off from the rest of the name
    ('cat_1', 'dog_1', ['1 of 1 LR']),                               # a single name has nothing in common with others
    ('a.png a.jpg', 'a b', ['lr/a.png and a.jpg: two images of one name']),
    ('a b', 'b.png b.bmp', ['hr/b.png and b.bmp: two images of one name'])])
def test_what_has_no_partner_is_named(lr, hr, words):
    text = message(match, files('lr', lr), files('hr', hr))
    assert all(part in text for part in words), text
    assert len(text) < 300


def test_the_first_images_need_partners_alone():
    lr, hr = files('lr', 'a_LR b_LR x_LR'), files('hr', 'a_HR b_HR c_HR')
    assert match(lr, hr, 1) == [(lr[0], hr[0])] and match(lr, hr, 2) == list(zip(lr[:2], hr[:2]))
    assert "'x_LR.png'" in message(match, lr, hr, 3) and "'x_LR.png'" in message(match, lr, hr, 9)
    assert '1 of 3 HR' in message(match, lr[:2], hr, 9)


def test_training_pairs_are_matched_by_name(tmp_path):
    """Grey levels tell the images: LR b, c, z beside HR a, b, c were once pairs."""
    for folder, names, side in (('lr', 'bcz', 4), ('hr', 'abc', 8), ('fit', ('ax2', 'bx2', 'cx2'), 4)):
        for name in names:
            save(tmp_path / folder / f'{name}.png', np.full((side, side, 3), ord(name[0]), np.uint8))
    settings = {'data_root': tmp_path, 'root_path_2': 'hr'}
    text = message(PairedImageFolders, root_path_1='lr', **settings)
    assert f'{tmp_path / "lr"} and {tmp_path / "hr"}: ' in text and "'z.png'" in text and "'a.png'" in text
    dataset = PairedImageFolders(root_path_1='fit', first_k=2, **settings)
    assert [[int(image[0, 0, 0]) for image in dataset[index]] for index in range(2)] == [[97, 97], [98, 98]]
