"""Comparison tables: what they show, worked out by hand; how suites go on after interruptions and changes."""
import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import engine.evaluation.comparison
import models
from engine.checkpoint import save_checkpoint
from engine.config import SUITE_KEYS, load_config
from engine.evaluation.candidates import model_names
from engine.evaluation.comparison import Comparison
from engine.evaluation.digest import code_digest
from engine.evaluation.measurement import Measurement
from engine.evaluation.metrics import make
from engine.evaluation.published import read_published
from engine.evaluation.suite import plain_suite, read_suite
from engine.evaluation.table_files import latex, markdown, write_tables
from engine.evaluation.tables import absences, ranks
from models.contract import SRModel
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device('cpu')


def measurement(method: str, scale: float, psnr: float | None = None, published: float | None = None, ssim: float = 0.9,
                **more) -> Measurement:
    absent = None if psnr is not None else f'{method}.pth: no such checkpoint file'
    return Measurement(**{'set': 'Set5', 'encoder': 'RDN', 'absent': absent, **more}, method=method, scale=scale,
                       scores={} if psnr is None else {'psnr': psnr, 'ssim': ssim},
                       published={} if published is None else {'psnr': published})


MEASUREMENTS = [
    measurement('LIIF', 2, 38.174, published=38.17, params=22_321_283, published_params=22.3),
    measurement('LIIF', 4, 32.504, published=32.5),
    measurement('IPE', 2, 38.172, reimplementation='from the abstract of the paper'), measurement('IPE', 4, 32.494),
    measurement('LTE', 2, 38.1), measurement('LTE', 4, 32.4),
    measurement('CLIT', 2, published=38.26), measurement('CLIT', 4),
]


def test_table_by_hand():
    """At ×2 two methods read 38.17 and are both best; what is absent is a dash, beside what is published."""
    table = markdown('Title', MEASUREMENTS, ['psnr'], []).splitlines()
    assert table[2:8] == [
        '| encoder | method | ×2 | ×4 |',
        '| --- | --- | ---: | ---: |',
        '| RDN | LIIF | **38.17** (38.17) | **32.50** (32.50) |',
        '| RDN | IPE<sup>1</sup> | **38.17** | <u>32.49</u> |',
        '| RDN | LTE | <u>38.10</u> | 32.40 |',
        '| RDN | CLIT | — (38.26) | — |']
    assert '<sup>1</sup> Re-implementation from the abstract of the paper.' in table
    assert table[-1] == '- RDN-CLIT: CLIT.pth: no such checkpoint file'


def test_published_figures_on_other_lr_images_are_named():
    """At ×2 and ×4 of MSIT, not at ×3, where the sources agree; nothing is published of SSIM."""
    sources = {2: 'pil_bicubic', 3: 'LR_bicubic', 4: 'pil_bicubic'}
    found = [measurement('MSIT', scale, 38, 38.3, lr='LR_bicubic', published_lr=source) for scale, source in sources.items()]
    sentence = ('Published on other LR images than measured: RDN-MSIT on Set5, ×2, ×4: pil_bicubic, measured on LR_bicubic.')
    assert sentence in markdown('', found, ['psnr'], []).splitlines()
    assert 'other LR images' not in markdown('', found, ['ssim'], []) + markdown('', found[1:2], ['psnr'], [])
    assert r'RDN-MSIT on Set5, $\times$2, $\times$4: pil\_bicubic' in latex('', found, ['psnr'], [])


def test_a_table_for_each_metric():
    """SSIM reads to four decimals: at ×2 LIIF and LTE are both best; nothing is published of it."""
    values = {'LIIF': 0.96124, 'IPE': 0.9607, 'LTE': 0.96121}
    found = [measurement(name, 2, 38, 38.17, ssim) for name, ssim in values.items()]
    table = markdown('', found, ['psnr', 'ssim'], ['params']).splitlines()
    assert (table[0], table[4], table[8]) == ('**PSNR (dB)**', '| RDN | LIIF | — | **38.00** (38.17) |', '**SSIM**')
    assert table[10:] == [
        '| encoder | method | params (M) | ×2 |',
        '| --- | --- | ---: | ---: |',
        '| RDN | LIIF | — | **0.9612** |',
        '| RDN | IPE | — | <u>0.9607</u> |',
        '| RDN | LTE | — | **0.9612** |', '',
        'Measured; best in bold, second best underlined; in parentheses as published.']
    text = latex('', found, ['psnr', 'ssim'], [])
    assert text.count(r'\begin{table}') == text.count(r'\end{table}') == 2
    assert r'\caption{SSIM. Measured; best in bold, second best underlined.}' in text


def test_lower_may_be_better_and_undefined_has_no_rank():
    values = {'A': 0.31, 'B': math.nan, 'C': 0.3, 'D': 0.4}
    found = [Measurement('S', '', name, 2, scores={'lpips': value}) for name, value in values.items()]
    assert {place[2]: rank for place, rank in ranks(found, 'lpips').items()} == {'A': 2, 'C': 1}
    assert '| B | nan |' in markdown('T', found, ['lpips'], [])


def test_latex_by_hand():
    lines = latex('A & B', MEASUREMENTS, ['psnr'], ['params']).splitlines()
    assert lines[0] == '% not measured: RDN-CLIT: CLIT.pth: no such checkpoint file'
    assert r'RDN & LIIF & 22.3 (22.3) & \textbf{38.17} (38.17) & \textbf{32.50} (32.50) \\' in lines
    assert r'RDN & IPE$^{1}$ & --- & \textbf{38.17} & \underline{32.49} \\' in lines
    assert lines[3].startswith(r'\caption{PSNR (dB): A \& B.') and r'\begin{tabular}{llrrr}' in lines


def test_ranks_are_of_each_set_and_need_two():
    alone = measurement('LTE', 2, 20.0, set='Set14')
    found = ranks([*MEASUREMENTS, alone], 'psnr')
    assert [found.get(m.place) for m in [*MEASUREMENTS, alone]] == [1, 1, 1, 2, 2, None, None, None, None]


def test_a_missing_set_is_listed_once():
    absent = [measurement(name, scale, set='Urban100', absent='no such folder')
              for name in ('LTE', 'IPE') for scale in (2, 3)]
    assert absences([*MEASUREMENTS[:2], *absent]) == ['Urban100: no such folder']


def test_csv_and_json_hold_nothing_for_what_is_absent(tmp_path):
    write_tables(tmp_path, 'T', MEASUREMENTS, ['psnr', 'ssim'], [])
    rows = list(csv.DictReader((tmp_path / 'table.csv').open()))
    assert [rows[0][key] for key in ('psnr', 'rank_psnr', 'published_psnr', 'ssim', 'rank_ssim', 'published_ssim')] == [
        '38.174', '1', '38.17', '0.9', '1', '']
    assert [rows[6][key] for key in ('psnr', 'rank_psnr', 'published_psnr', 'ssim')] == ['', '', '38.26', '']
    assert json.loads((tmp_path / 'table.json').read_text())['measurements'][7]['psnr'] is None


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
    scales, original = [], engine.evaluation.comparison.evaluate_scale

    def noted(model: SRModel, dataset, scale: float, *others, **settings):
        row = original(model, dataset, scale, *others, **settings)
        scales.append(scale)
        return row
    monkeypatch.setattr(engine.evaluation.comparison, 'evaluate_scale', noted)
    return scales


def compare(data: str = 'data', models: list[str] | None = None, metrics=('psnr', 'ssim'), **settings) -> Comparison:
    comparison = Comparison(read_suite('suite.yaml', Path(data), models), CPU, make(metrics), **settings)
    comparison.measure()
    return comparison


def test_what_is_missing_is_absent(place):
    found = compare().measurements()
    assert [(m.set, m.method, m.scale, m.scores == {}) for m in found] == [
        ('Mini', 'Bicubic', 2, False), ('Mini', 'Bicubic', 3, False), ('Mini', 'LIIF', 2, True), ('Mini', 'LIIF', 3, True),
        ('Gone', 'Bicubic', 2, True), ('Gone', 'Bicubic', 3, True), ('Gone', 'LIIF', 2, True), ('Gone', 'LIIF', 3, True)]
    assert [m.published for m in found[:2]] == [{'psnr': 33.66}, {'psnr': 30.39}]
    assert found[2].absent == 'modelzoo/RDN_LIIF.pth: no such checkpoint file' and 'data/Gone' in found[4].absent


def test_nothing_there_is_one_line(place):
    comparison = compare(data='nowhere')
    with pytest.raises(UserError, match='nothing to measure: nowhere/Mini') as error:
        comparison.measurements()
    assert '\n' not in str(error.value) and not Path('test').exists()


def test_interrupted_and_continued(place, measured, monkeypatch):
    noted = engine.evaluation.comparison.evaluate_scale

    def interrupted(model, dataset, scale, *others, **settings):
        if scale == 3:
            raise KeyboardInterrupt
        return noted(model, dataset, scale, *others, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(engine.evaluation.comparison, 'evaluate_scale', interrupted)
        with pytest.raises(KeyboardInterrupt, match='1 of 2 results are kept'):
            compare()
    assert [row['scale'] for row in json.loads(Path('test/bicubic/results.json').read_text())['rows']] == [2.0]
    first = compare().measurements()
    assert measured == [2.0, 3.0]
    assert compare().measurements() == first and measured == [2.0, 3.0]
    compare(fresh=True)
    assert measured == [2.0, 3.0, 2.0, 3.0]


def test_what_changed_is_measured_anew(place, measured):
    compare()
    Image.new('RGB', (33, 30)).save('data/Mini/one.png')
    compare()
    assert measured == [2.0, 3.0] * 2
    kept = json.loads(Path('test/bicubic/results.json').read_text())
    Path('test/bicubic/results.json').write_text(json.dumps({**kept, 'weights': 'of another file'}))
    compare()
    assert measured == [2.0, 3.0] * 3
    assert len(json.loads(Path('test/bicubic/results.json').read_text())['rows']) == 2


@pytest.mark.parametrize('damage', [
    lambda text: text[:len(text) // 2], lambda text: '[]', lambda text: text.replace('"rows": [', '"rows": 3, "x": ['),
    lambda text: text.replace('"psnr"', '"pnsr"'), lambda text: text.replace('"scale": 2.0', '"scale": "2"').replace(
        '"scale": 3.0', '"scale": null'), lambda text: text.replace('"name": "two.png"', '"nam": "two.png"'),
    lambda text: text.replace('"images": 2', '"images": 3'), lambda text: text.replace('"ssim": ', '"ssim": true, "x": '),
    lambda text: '[' * 200_000, lambda text: '{"rows": ' * 900 + '1' + '}' * 900, lambda text: '', lambda text: '\0' * 100,
    lambda text: 'null', lambda text: text.replace('"params": 0', '"params": 1e999'),
    lambda text: text.replace('"images": 2', '"images": 2, "more": ' + '[' * 700 + ']' * 700),
    lambda text: text.replace('"name": "two.png"', '"name": "two.png", "more": {"x": 1}'),
    lambda text: text.replace('"images": 2', '"images": 1').replace('{\n     "name": "one.png"', '{"x": 1}, {"name": "x"'),
])
def test_damaged_results_are_measured_anew(place, measured, damage):
    first = compare().rows()
    path = Path('test/bicubic/results.json')
    whole = path.read_text()
    path.write_text(damage(whole))
    assert timeless(compare().rows()) == timeless(first) and measured == [2.0, 3.0] * 2
    assert json.loads(path.read_text()).keys() == json.loads(whole).keys()
    compare()
    assert len(measured) == 4


def test_rows_with_wrong_values_are_dropped(place, measured):
    """Each has one wrong value, and is of another set, so that it would otherwise be kept and shown in results.md."""
    compare()
    path = Path('test/bicubic/results.json')
    kept = json.loads(path.read_text())
    values = ['1e999', '-1e30', '1' + '0' * 400, 'NaN', 'true', '{"a": 1}', '[3]', '"a\\nb"', '"\\ud800"']
    wrong = [json.dumps({**kept['rows'][0], 'dataset': 'Other', key: '@'}).replace('"@"', value) for value in values
             for key in (*kept['rows'][0], 'further')]
    assert len(wrong) == 9 * 14
    right = json.dumps({**kept['rows'][0], 'dataset': 'Right'})
    path.write_text(json.dumps({**kept, 'rows': '@'}).replace('"@"', f'[{", ".join([*wrong, right])}]'))
    compare()
    assert measured == [2.0, 3.0] * 2
    assert [row['dataset'] for row in json.loads(path.read_text())['rows']] == ['Right', 'Mini', 'Mini']


def timeless(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ('seconds_per_image', 'peak_memory')} for row in rows]


def copied_program(folder: Path) -> Path:
    for name in ('common', 'imaging', 'models', 'datasets', 'engine'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    return folder


@pytest.mark.parametrize(('file', 'counts'), [
    ('engine/evaluation/metrics/psnr.py', True), ('engine/evaluation/evaluate.py', True), ('models/__init__.py', True),
    ('datasets/protocols/div2k.py', True), ('datasets/evaluation.py', True), ('common/coords.py', True),
    ('common/arrays.py', True), ('engine/evaluation/tables.py', False), ('datasets/prepare/__main__.py', False)])
def test_digest_of_the_code(tmp_path, file, counts):
    """Of what decides a result, and of nothing else; a further file counts as well."""
    root = copied_program(tmp_path)
    assert code_digest(root) == code_digest(ROOT)
    changed = root / file
    assert changed.is_file()
    changed.write_text(changed.read_text() + '\n')
    assert (code_digest(root) != code_digest(ROOT)) == counts
    changed.write_text(changed.read_text()[:-1])
    assert code_digest(root) == code_digest(ROOT)
    changed.with_name('further.py').write_text('')
    assert (code_digest(root) != code_digest(ROOT)) == (counts and changed.parent.name in ('metrics', 'protocols', 'models'))


def test_results_of_other_code_are_measured_anew(place, measured):
    """An altered metric file; unless they are to be taken as they are."""
    compare()
    root = copied_program(place / 'program')
    metric = root / 'engine/evaluation/metrics/ssim.py'
    metric.write_text(metric.read_text().replace('K1, K2 = 11, 1.5, 0.01', 'K1, K2 = 11, 1.5, 0.02'))
    code = code_digest(root)
    reused = compare(code=code, reuse=True)
    assert measured == [2.0, 3.0] and reused.count_outdated() == 2
    anew = compare(code=code)
    assert measured == [2.0, 3.0] * 2 and anew.count_outdated() == 0
    assert {row['code'] for row in json.loads(Path('test/bicubic/results.json').read_text())['rows']} == {code}
    compare(code=code)
    assert len(measured) == 4


def test_further_metrics_join_those_that_are_kept(place, measured):
    """Measured anew for what is missing; what was known stays, also for the images."""
    both = compare(metrics=['psnr', 'ssim']).rows()
    Path('test/bicubic/results.json').unlink()
    alone = compare(metrics=['ssim']).rows()
    assert measured == [2.0, 3.0] * 2 and 'psnr' not in alone[0]
    joined = compare(metrics=['psnr']).rows()
    assert measured == [2.0, 3.0] * 3 and timeless(joined) == timeless(both)
    assert timeless(compare(metrics=['psnr', 'ssim']).rows()) == timeless(both) and len(measured) == 6
    compare(metrics=['psnr'], code='other')
    assert 'ssim' not in json.loads(Path('test/bicubic/results.json').read_text())['rows'][0]


def test_a_rewritten_checkpoint_is_measured_anew(place, measured, tiny_msit):
    write('suite.yaml', {'title': 'T', 'sets': [{'config': 'Mini.yaml'}], 'rows': [{'method': 'MSIT', 'model': 'tiny.pth'}]})
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_checkpoint('tiny.pth', models.make(tiny_msit), tiny_msit)
        found.append([m.scores['psnr'] for m in compare().measurements()])
    assert measured == [2.0, 3.0] * 2 and found[0] != found[1]
    assert [m.scores['psnr'] for m in compare().measurements()] == found[1] and len(measured) == 4


def test_shipped_weights_by_their_name(place):
    """Also in the place of a suite's row that names their file."""
    suite = read_suite('suite.yaml', Path('data'), ['MSIT-S'])
    assert [(method.name, method.files) for method in suite.methods] == [('MSIT-S', {None: 'MSIT-S'})]
    config = yaml.safe_load(Path('suite.yaml').read_text())
    write('suite.yaml', {**config, 'rows': [{'method': 'Ours', 'encoder': 'E', 'model': 'modelzoo/MSIT-S.pth'}]})
    suite = read_suite('suite.yaml', Path('data'), ['MSIT-S'])
    assert [(method.name, method.encoder) for method in suite.methods] == [('Ours', 'E')]
    comparison = compare(models=['MSIT-S'])
    assert comparison.candidates['MSIT-S'].params == 635_268
    assert all(m.scores['psnr'] for m in comparison.measurements() if m.set == 'Mini')


def test_given_models_must_be_there(place):
    with pytest.raises(UserError, match=r'nowhere\.pth: no such checkpoint'):
        compare(models=['bicubic', 'nowhere.pth'])
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
        scores = read_published(each['published'], name).scores
        assert scores and {method for method, _ in scores} - rows == set()


def test_published_figures():
    found = read_published(['table1_div2k_valid'], 'x')
    assert (found.scores['RDN-MSIT', 30.0], found.sizes['EDSR-baseline-CLIT']) == ({'psnr': 20.68}, 16.9)
    assert [found.lr[name, scale] for name, scale in (('RDN-MSIT', 2.0), ('RDN-LIIF', 2.0), ('RDN-LIIF', 6.0))] == [
        'pil_bicubic', 'LR_bicubic', 'pil_bicubic']
    assert ('RDN', 6.0) not in found.scores
    found = read_published(['table2_benchmarks_rdn.Urban100', 'bicubic_published.Urban100'], 'x')
    assert (found.scores['RDN-CLIT', 8.0], found.scores['Bicubic', 4.0]) == ({'psnr': 23.03}, {'psnr': 23.14})
    with pytest.raises(UserError, match="'table9' is not in published"):
        read_published(['table9'], 'x')
