"""Exported files: whole or not at all, and no weight that half precision cannot hold."""
import errno

import pytest
import torch

import models
from engine import checkpoint
from engine.checkpoint import save_checkpoint
from engine.tools.export import export
from utils import RunError, UserError

LARGEST = 65504.0  # of float16: (2 − 2⁻¹⁰)·2¹⁵


def saved(path, spec: dict, value: float):
    """A checkpoint with `value` in one kernel and one bias."""
    torch.manual_seed(0)
    model = models.make(spec)
    with torch.no_grad():
        model.encoder.head[0].weight[0, 0, 0, 0] = value
        model.encoder.head[0].bias[0] = 1e6
    save_checkpoint(path, model, spec)
    return path


@pytest.mark.parametrize('value', [LARGEST, -LARGEST])
def test_the_largest_number_of_float16_is_kept(tmp_path, tiny_msit, value):
    export(saved(tmp_path / 'a.pth', tiny_msit, value), tmp_path / 'b.pth', 'float16')
    state = torch.load(tmp_path / 'b.pth', weights_only=True)['model']['sd']
    assert state['encoder.head.0.weight'][0, 0, 0, 0] == value and state['encoder.head.0.bias'][0] == 1e6


@pytest.mark.parametrize('value', [70000.0, -70000.0])
def test_overflow_names_the_tensor(tmp_path, tiny_msit, value):
    source = saved(tmp_path / 'a.pth', tiny_msit, value)
    with pytest.raises(UserError, match=r'a\.pth: encoder\.head\.0\.weight: holds 7e\+04, .*65504.* export it as float32'):
        export(source, tmp_path / 'b.pth', 'float16')
    assert not (tmp_path / 'b.pth').exists()
    export(source, tmp_path / 'b.pth')
    assert torch.load(tmp_path / 'b.pth', weights_only=True)['model']['sd']['encoder.head.0.weight'][0, 0, 0, 0] == value


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, tiny_msit, monkeypatch):
    source = saved(tmp_path / 'a.pth', tiny_msit, 1.0)
    (tmp_path / 'b.pth').write_text('the old one')

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(checkpoint.os, 'fsync', full)
    with pytest.raises(RunError, match=r'b\.pth: could not be written, is the disk full\? .*No space left on device'):
        export(source, tmp_path / 'b.pth')
    assert (tmp_path / 'b.pth').read_text() == 'the old one'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.pth', 'b.pth']
