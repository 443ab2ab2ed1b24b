"""Configs of figures: what a file, options and -set say together."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from common.registry import SpecError
from datasets.evaluation import Evaluation
from engine.config import SOURCE, Key, check_keys
from engine.yaml_files import apply_overrides, merge, read_yaml
from figures.base import FIGURES, Kind
from utils import UserError, nearest_name, shortened

FIGURE_KEYS = {'figure': Key(FIGURES, True), 'test_dataset': Key(SOURCE)}


def figure_config(file: str | None, kind: str | None, given: dict[str, Any], overrides: Sequence[str] = ()) -> dict:
    """The config of a figure, checked: {'figure': {'name', 'args'}, 'test_dataset': …}.

    Args:
        file: a config of a figure, or a test config; None for none.
        kind: of figure; None for that of the file.
        given: arguments from the command line, which replace those of the file.
        overrides: the changes of -set.
    Raises: UserError that names the file, the option or the key.
    """
    if kind is not None and kind not in FIGURES.entries:
        raise UserError(f'unknown kind of figure {shortened(kind)}; {nearest_name(kind, FIGURES.entries)}')
    config = read_yaml(file) if file else {}
    named = config.get('figure', {})
    named = named.get('name') if isinstance(named, dict) else None
    if kind and named and kind != named:
        raise UserError(f'{file}: is a config of kind {shortened(named)}, not of {shortened(kind)}; leave the kind out')
    if not kind and not named:
        raise UserError(f'expected a kind of figure, or -config with a file of configs/figures (choices: '
                        f"{', '.join(sorted(FIGURES.entries))})")
    if file:
        check_keys({'figure': {'name': kind}, **config}, {**FIGURE_KEYS, 'figure': Key(dict)}, f'{file}: ')
    config = apply_overrides(merge(config, {'figure': {'name': kind or named, 'args': given}}), overrides)
    check_keys(config, FIGURE_KEYS, f'{file}: ' if file and not given and not overrides else '')
    return config


def make_figure(config: dict) -> Kind:
    """The figure of a config. Raises: UserError."""
    try:
        return FIGURES.make(config['figure'], 'figure')
    except SpecError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise


def make_evaluation(config: dict, data: Path) -> Evaluation | None:
    """The evaluation set of a config; None where it has none."""
    return datasets.make(config['test_dataset'], data, 'test_dataset') if 'test_dataset' in config else None
