"""Comparison tables: what they show, worked out by hand; how suites go on after interruptions and changes."""
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import engine.evaluation.suite
import models
from engine.checkpoint import save_checkpoint
from engine.config import SUITE_KEYS, load_config
from engine.evaluation.suite import Run, model_names, plain_suite, published_figures, read_suite
from engine.evaluation.tables import Cell, absences, latex, markdown, ranks, write_tables
from models.sr_model import SRModel
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device('cpu')


def cell(method: str, scale: float, psnr: float | None = None, **more) -> Cell:
    absent = None if psnr is not None else f'{method}.pth: no such checkpoint file'
    return Cell(**{'set': 'Set5', 'encoder': 'RDN', 'absent': absent, **more}, method=method, scale=scale, psnr=psnr)


CELLS = [
    cell('LIIF', 2, 38.174, published=38.17, params=22_321_283, published_params=22.3),
    cell('LIIF', 4, 32.504, published=32.5),
    cell('IPE', 2, 38.172, reimplementation='from the abstract of the paper'), cell('IPE', 4, 32.494),
    cell('LTE', 2, 38.1), cell('LTE', 4, 32.4),
    cell('CLIT', 2, published=38.26), cell('CLIT', 4),
]


def test_table_by_hand():
    """At ×2 two methods read 38.17 and are both best; what is absent is a dash, beside what is published."""
    table = markdown('Title', CELLS, []).splitlines()
    assert table[2:8] == [
        '| encoder | method | ×2 | ×4 |',
        '| --- | --- | ---: | ---: |',
        '| RDN | LIIF | **38.17** (38.17) | **32.50** (32.50) |',
        '| RDN | IPE<sup>1</sup> | **38.17** | <u>32.49</u> |',
        '| RDN | LTE | <u>38.10</u> | 32.40 |',
        '| RDN | CLIT | — (38.26) | — |']
    assert '<sup>1</sup> Re-implementation from the abstract of the paper.' in table
    assert table[-1] == '- RDN-CLIT: CLIT.pth: no such checkpoint file'


def test_latex_by_hand():
    lines = latex('A & B', CELLS, ['params']).splitlines()
    assert lines[0] == '% not measured: RDN-CLIT: CLIT.pth: no such checkpoint file'
    assert r'RDN & LIIF & 22.3 (22.3) & \textbf{38.17} (38.17) & \textbf{32.50} (32.50) \\' in lines
    assert r'RDN & IPE$^{1}$ & --- & \textbf{38.17} & \underline{32.49} \\' in lines
    assert lines[3].startswith(r'\caption{A \& B.') and r'\begin{tabular}{llrrr}' in lines


def test_ranks_are_of_each_set_and_need_two():
    alone = cell('LTE', 2, 20.0, set='Set14')
    found = ranks([*CELLS, alone])
    assert [found.get(c) for c in [*CELLS, alone]] == [1, 1, 1, 2, 2, None, None, None, None]


def test_a_missing_set_is_told_once():
    cells = [cell(name, scale, set='Urban100', absent='no such folder') for name in ('LTE', 'IPE') for scale in (2, 3)]
    assert absences([*CELLS[:2], *cells]) == ['Urban100: no such folder']


def test_csv_and_json_hold_nothing_for_what_is_absent(tmp_path):
    write_tables(tmp_path, 'T', CELLS, [])
    rows = list(csv.DictReader((tmp_path / 'table.csv').open()))
    assert (rows[0]['psnr'], rows[0]['rank'], rows[6]['psnr'], rows[6]['published']) == ('38.174', '1', '', '38.26')
    assert json.loads((tmp_path / 'table.json').read_text())['cells'][7]['psnr'] is None


# running

@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Set Mini of two images at ×2 and ×3, set Gone without any, and a suite of both with a missing checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (('one', 1), ('two', 2)):
        path = tmp_path / f'data/Mini/{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 33, 3), dtype=np.uint8)).save(path)
    for name in ('Mini', 'Gone'):
        write(f'{name}.yaml', {'test_dataset': {
            'dataset': {'name': 'image-folder', 'args': {'root_path': name}},
            'wrapper': {'name': 'sr-evaluation', 'args': {'name': name, 'protocol': 'benchmark', 'scales': [2, 3]}}}})
    write('suite.yaml', {'title': 'T', 'sets': [{'config': 'Mini.yaml', 'published': ['bicubic_published.Set5']},
                                                {'config': 'Gone.yaml'}],
                         'rows': [{'method': 'Bicubic', 'model': 'bicubic', 'published': 'Bicubic'},
                                  {'method': 'LIIF', 'encoder': 'RDN', 'model': 'modelzoo/RDN_LIIF.pth'}]})
    return tmp_path


def write(name: str, content: dict) -> None:
    Path(name).write_text(yaml.safe_dump(content))


@pytest.fixture
def measured(monkeypatch) -> list[float]:
    """The scales that are really measured, in order."""
    scales, original = [], engine.evaluation.suite.evaluate_scale

    def noted(model: SRModel, dataset, scale: float, *others, done: Callable):
        row = original(model, dataset, scale, *others, done=done)
        scales.append(scale)
        return row
    monkeypatch.setattr(engine.evaluation.suite, 'evaluate_scale', noted)
    return scales


def go(fresh: bool = False) -> Run:
    run = Run(read_suite('suite.yaml', Path('data')), CPU, fresh=fresh)
    run.measure()
    return run


def test_what_is_missing_is_absent(place):
    cells = go().cells()
    assert [(c.set, c.method, c.scale, c.psnr is None) for c in cells] == [
        ('Mini', 'Bicubic', 2, False), ('Mini', 'Bicubic', 3, False), ('Mini', 'LIIF', 2, True), ('Mini', 'LIIF', 3, True),
        ('Gone', 'Bicubic', 2, True), ('Gone', 'Bicubic', 3, True), ('Gone', 'LIIF', 2, True), ('Gone', 'LIIF', 3, True)]
    assert [c.published for c in cells[:2]] == [33.66, 30.39]
    assert cells[2].absent == 'modelzoo/RDN_LIIF.pth: no such checkpoint file' and 'data/Gone' in cells[4].absent


def test_nothing_there_is_one_line(place):
    run = Run(read_suite('suite.yaml', Path('nowhere')), CPU)
    run.measure()
    with pytest.raises(UserError, match='nothing to measure: nowhere/Mini') as error:
        run.cells()
    assert '\n' not in str(error.value) and not Path('test').exists()


def test_interrupted_and_continued(place, measured, monkeypatch):
    noted = engine.evaluation.suite.evaluate_scale

    def interrupted(model, dataset, scale, *others, done):
        if scale == 3:
            raise KeyboardInterrupt
        return noted(model, dataset, scale, *others, done=done)
    with monkeypatch.context() as patch:
        patch.setattr(engine.evaluation.suite, 'evaluate_scale', interrupted)
        with pytest.raises(KeyboardInterrupt, match='1 of 2 results are kept'):
            go()
    assert [row['scale'] for row in json.loads(Path('test/bicubic/results.json').read_text())['rows']] == [2.0]
    first = go().cells()
    assert measured == [2.0, 3.0]
    assert go().cells() == first and measured == [2.0, 3.0]
    go(fresh=True)
    assert measured == [2.0, 3.0, 2.0, 3.0]


def test_what_changed_is_measured_anew(place, measured):
    go()
    Image.new('RGB', (33, 30)).save('data/Mini/one.png')
    go()
    assert measured == [2.0, 3.0] * 2
    kept = json.loads(Path('test/bicubic/results.json').read_text())
    Path('test/bicubic/results.json').write_text(json.dumps({**kept, 'weights': 'of another file'}))
    go()
    assert measured == [2.0, 3.0] * 3
    assert len(json.loads(Path('test/bicubic/results.json').read_text())['rows']) == 2


def test_a_rewritten_checkpoint_is_measured_anew(place, measured, tiny_msit):
    write('suite.yaml', {'title': 'T', 'sets': [{'config': 'Mini.yaml'}], 'rows': [{'method': 'MSIT', 'model': 'tiny.pth'}]})
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_checkpoint('tiny.pth', models.make(tiny_msit), tiny_msit)
        found.append([cell.psnr for cell in go().cells()])
    assert measured == [2.0, 3.0] * 2 and found[0] != found[1]
    assert [cell.psnr for cell in go().cells()] == found[1] and len(measured) == 4


def test_shipped_weights_by_their_name(place):
    """Also in the place of a suite's row that names their file."""
    suite = read_suite('suite.yaml', Path('data'), ['MSIT-S'])
    assert [(row.method, row.files) for row in suite.rows] == [('MSIT-S', {None: 'MSIT-S'})]
    config = yaml.safe_load(Path('suite.yaml').read_text())
    write('suite.yaml', {**config, 'rows': [{'method': 'Ours', 'encoder': 'E', 'model': 'modelzoo/MSIT-S.pth'}]})
    suite = read_suite('suite.yaml', Path('data'), ['MSIT-S'])
    assert [(row.method, row.encoder) for row in suite.rows] == [('Ours', 'E')]
    run = Run(suite, CPU)
    run.measure()
    assert run.candidates['MSIT-S'].params == 635_268 and all(cell.psnr for cell in run.cells() if cell.set == 'Mini')


def test_given_models_must_be_there(place):
    with pytest.raises(UserError, match=r'nowhere\.pth: no such checkpoint'):
        Run(read_suite('suite.yaml', Path('data'), ['bicubic', 'nowhere.pth']), CPU)
    with pytest.raises(UserError, match='Mini at ×2 is asked for twice'):
        plain_suite(['Mini.yaml', 'Mini.yaml'], Path('data'), ['bicubic'])


def test_model_names():
    assert model_names(['a/X.pth', 'bicubic', 'b/X.pth']) == {'a/X.pth': 'a_X', 'bicubic': 'bicubic', 'b/X.pth': 'b_X'}
    with pytest.raises(UserError, match='same name'):
        model_names(['a/X.pth', 'c/a/X.pth'])


# the shipped suites

@pytest.mark.parametrize('name', ['paper-table1', 'paper-table2'])
def test_shipped_suites_name_every_published_row(name):
    config = load_config(ROOT / f'configs/test/{name}.yaml', SUITE_KEYS)
    rows = {row['published'] for row in config['rows']}
    for each in config['sets']:
        assert (ROOT / 'configs/test' / each['config']).is_file()
        figures, _ = published_figures(each['published'], name)
        assert figures and {method for method, _ in figures} - rows == set()


def test_published_figures():
    figures, sizes = published_figures(['table1_div2k_valid'], 'x')
    assert (figures['RDN-MSIT', 30.0], sizes['EDSR-baseline-CLIT']) == (20.68, 16.9) and ('RDN', 6.0) not in figures
    figures, _ = published_figures(['table2_benchmarks_rdn.Urban100', 'bicubic_published.Urban100'], 'x')
    assert (figures['RDN-CLIT', 8.0], figures['Bicubic', 4.0]) == (23.03, 23.14)
    with pytest.raises(UserError, match="'table9' is not in published"):
        published_figures(['table9'], 'x')
