"""Messages stay short, and cheap to write, whatever the values that they print."""
import os
from pathlib import Path

import pytest
from config_files import change, refusal, write

import models
from common.cli import verdict
from engine.config import TRAIN_KEYS, changes, load_config
from engine.yaml_files import to_yaml
from utils import UserError, WriteError, printable, shortened

LAUGHS = 'a0: &a0 [lol, lol]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 16))
LONG = 'a/' * 2500


@pytest.mark.parametrize(('value', 'expected'), [
    (1e-4, '0.0001'), ('x', "'x'"), ([2, 3], '[2, 3]'), ({'a': [1]}, "{'a': [1]}"), (None, 'None'), (True, 'True'),
    ('a\nb', "'a\\nb'")])
def test_short_values_are_printed_as_they_are(value, expected):
    assert shortened(value) == expected


def test_long_values_are_cut():
    assert shortened('name', quotes=False) == 'name' and shortened(7, quotes=False) == '7'
    for value in ('x' * 10 ** 6, list(range(10 ** 6)), {str(i): i for i in range(1000)}, 10 ** 4000, [['y' * 99] * 99] * 99):
        assert 30 <= len(shortened(value)) <= 80 and len(shortened(value, quotes=False)) <= 80
    assert shortened(1 << 10 ** 5) == '<int of too many digits>'
    nested = []
    for _ in range(10 ** 5):
        nested = [nested]
    assert shortened(nested) == '[[[[...]]]]'
    laughs = ['lol']
    for _ in range(100):
        laughs = [laughs] * 10
    assert len(shortened(laughs)) <= 80


@pytest.mark.parametrize(('text', 'expected'), [
    ('a b/é漢\u3000🙂.png', 'a b/é漢\u3000🙂.png'), (Path('a\nb.png'), r'a\nb.png'), ('a\rb\tc', r'a\rb\tc'),
    ('\x1b[31mred', r'\x1b[31mred'), ('\u202egnp.exe', r'\u202egnp.exe'), ('\0', r'\x00'), ('\u2028', r'\u2028'),
    (os.fsdecode(b'\xff.png'), r'\udcff.png')])
def test_names_are_printed_on_one_line_that_no_terminal_obeys(text, expected):
    assert printable(text) == expected


@pytest.mark.parametrize(('error', 'status', 'expected'), [
    (PermissionError(13, 'Permission denied', 'a.tar'), 2, 'error: a.tar: Permission denied'),
    (FileNotFoundError(2, 'No such file or directory', b'a\nb'), 2, r'error: a\nb: No such file or directory'),
    (OSError(36, 'File name too long', LONG), 2, f'error: {shortened(LONG, quotes=False)}: File name too long'),
    (OSError(5, 'Input/output error', 'a.tar'), 1, 'error: a.tar: Input/output error'),
    (OSError(28, 'No space left on device'), 1, 'error: No space left on device; free some space and run it again'),
    (OSError('decoded: cannot be written to'), 1, 'error: decoded: cannot be written to'),
    (WriteError(27, 'File too large', 'x.pth'), 1, 'error: x.pth: cannot be written (File too large)')])
def test_errors_of_the_system_have_no_numbers(error, status, expected):
    assert verdict(error) == (status, expected)


def test_changes_of_a_config_are_cut():
    """A file can hold any config; what changed since is one line of the log."""
    long, = changes({'a': [0] * 10_000}, {'a': 1})
    assert len(long) < 100 and long.startswith('a [0, 0, ') and long.endswith('… → 1')
    key, = changes({'k' * 10_000: 1}, {})
    assert len(key) < 100 and key.startswith('kkk') and key.endswith(' 1 → none')


@pytest.mark.parametrize(('path', 'value'), [
    ('epoch_max', 'x' * 10 ** 5), ('y' * 10 ** 5, 1), ('precision', 'z' * 10 ** 5), ('train_dataset', ['w'] * 10 ** 4),
    ('model.name', 'm' * 10 ** 5), ('model.args.heads', ['h' * 99] * 99), ('model.args.' + 'k' * 10 ** 5, 1),
    ('optimizer.' + 'k' * 10 ** 5, 1), ('lr_factors', {'f' * 10 ** 5: 'x'}), ('data_norm.inp.sub', [['s'] * 99] * 99),
    ('base', ['b'] * 10 ** 4)])
def test_messages_stay_short(tmp_path, train_config, path, value):
    assert len(refusal(tmp_path, change(train_config, path, value))) < 700


def test_messages_of_what_is_built_stay_short(train_config):
    with pytest.raises(UserError) as error:
        models.make(change(train_config['model'], 'args.imnet_spec.args.hidden_list', [0] * 60))
    assert 'expected widths of at least 1, got hidden_list [0, 0' in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize('path', [
    'epoch_max', 'data_norm.inp.sub', 'model', 'model.args.heads', 'optimizer.args.betas', 'unknown'])
def test_aliases_are_not_written_out(tmp_path, train_config, path):
    """15 levels of ten aliases each would be 10^15 values: refused before anything looks at them."""
    message = refusal(tmp_path, LAUGHS + to_yaml(change(train_config, path, 'HERE')).replace('HERE', '*a15'))
    assert message == 'more than 100,000 values, counting an alias as what it stands for'
    message = refusal(tmp_path, 'b: &b [0.5]\n' + to_yaml({'seed': 'HERE'}).replace('HERE', '[*b, *b]'))
    assert message.startswith('b: unknown key')
    with pytest.raises(UserError, match=r'^-set seed: more than 100,000 values'):
        load_config(write(tmp_path, train_config), TRAIN_KEYS, ('seed={' + ', '.join(LAUGHS.splitlines()) + '}',))


@pytest.mark.parametrize('levels', [33, 100, 300, pytest.param(2000, marks=pytest.mark.slow), 10 ** 5])
def test_deep_nesting(tmp_path, levels):
    assert refusal(tmp_path, f'seed: {"[" * levels}{"]" * levels}') == 'nested more than 32 levels deep'


def test_nesting_that_is_read(tmp_path, train_config):
    text = to_yaml(train_config).replace('seed: 0', f'seed: {"[" * 25}1{"]" * 25}')
    assert refusal(tmp_path, text) == 'seed: expected int, got [[[[...]]]]'
    assert 'recursive' in refusal(tmp_path, 'seed: &a [*a]')
