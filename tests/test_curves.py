"""benchmarks.curves: what it reads from runs, and draws again from the values it wrote."""
import json

import pytest
from helpers import call
from lab import BATCHES, scalars

from benchmarks import curves


@pytest.fixture
def draw(lab, capsys, monkeypatch):
    def command(*words):
        return call(curves.main, words, capsys, monkeypatch)
    return command


@pytest.mark.slow
def test_values_of_a_run_and_of_a_file(lab, draw):
    """The mean over the scales after each epoch, and the same once more without the run's folder."""
    assert lab.train('run').status == 0
    recorded = scalars(lab.save('run'))
    expected = [[epoch * BATCHES, (recorded['val/psnr_x2'][epoch - 1][1] + recorded['val/psnr_x3'][epoch - 1][1]) / 2]
                for epoch in (1, 2)]
    image, values = lab.folder / 'curves.png', lab.folder / 'curves.json'
    done = draw('-runs', lab.save('run'), '-output', image)
    assert (done.status, done.out) == (0, f'wrote {image} and {values}\n')
    found = json.loads(values.read_text())
    assert list(found) == ['run'] and [step for step, _ in found['run']] == [step for step, _ in expected]
    assert [value for _, value in found['run']] == pytest.approx([value for _, value in expected], abs=1e-6)

    values.write_text(json.dumps({'earlier': [[500, 30.5], [1000, 31]], **found}))
    again = lab.folder / 'again.png'
    assert draw('-runs', values, '-output', again).status == 0
    assert again.stat().st_size > 1000
    assert json.loads((lab.folder / 'again.json').read_text()) == {'earlier': [[500, 30.5], [1000, 31]], **found}


@pytest.mark.parametrize('content, problem', [
    (None, 'cannot be read (No such file or directory)'),
    *((content, 'holds a run without values, or none; draw it anew from the folders of its runs') for content in (
        '{}', '{"a": [[1, 30]], "b": []}')),
    *((content, 'expected the values of curves, as benchmarks.curves writes them') for content in (
        '', '[]', '{"a": 3}', '{"a": [[1]]}', '{"a": [["x", 2]]}', '{"a": [[1e999, 2]]}', '\ud800', '[' * 100_000))])
def test_a_file_of_something_else(tmp_path, draw, content, problem):
    file, image = tmp_path / 'values.json', tmp_path / 'curves.png'
    if content is not None:
        file.write_bytes(content.encode('utf-8', 'surrogatepass'))
    done = draw('-runs', file, '-output', image)
    assert (done.status, done.err) == (2, f'error: {file}: {problem}\n')
    assert not image.exists()


def test_two_runs_of_one_name(tmp_path, draw):
    for name in ('a', 'b'):
        (tmp_path / f'{name}.json').write_text('{"run": [[1, 30]]}')
    done = draw('-runs', tmp_path / 'a.json', tmp_path / 'b.json', '-output', tmp_path / 'curves.png')
    assert done.status == 2
    assert done.err == f'error: {tmp_path}/b.json: run is the name of several runs; each needs its own\n'
