"""Puts what the steps of gpu.sh wrote into results.json and results.md: python -m benchmarks.gpu FOLDER"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import json
from pathlib import Path

from benchmarks import kernels, queries, steps
from common.cli import Parser, run
from utils import UserError, write_text

STATUS = {0: 'done', 5: 'no test for this device', 130: 'stopped at its limit', 143: 'stopped at its limit',
          137: 'killed after its limit'}
LOG_LINES = 12  # of the training's log that are shown


def upscale_table(found: dict) -> str:
    """Of benchmarks.queries."""
    head = f"{found['machine']}, {found['precision']}; matrix products: {found['matmul_gmacs']:.0f} G multiply-adds/s"
    return f"{head}\n\n{queries.table(found['upscale'])}"


REPORTS = {'kernels': kernels.report, 'steps': steps.report, 'upscale_float32': upscale_table,
           'upscale_bfloat16': upscale_table}


def main() -> None:
    parser = Parser(prog='python -m benchmarks.gpu', description='Reports what the steps of gpu.sh wrote into a folder.')
    parser.add_argument('folder', type=Path, metavar='FOLDER')
    folder = parser.parse_args().folder
    listed = folder / 'steps.tsv'
    if not listed.is_file():
        raise UserError(f'{folder}: has no steps.tsv; expected the output folder of benchmarks/gpu.sh')
    results: dict = {'steps': [], 'results': {}}
    parts = ['| step | status | seconds |\n|---|---|---:|']
    for line in listed.read_text(encoding='utf-8').splitlines():
        name, status, seconds = line.split('\t')
        results['steps'].append({'name': name, 'status': int(status), 'seconds': int(seconds)})
        parts[0] += f"\n| {name} | {STATUS.get(int(status), f'failed with status {status}')} | {seconds} |"
    for name, report in REPORTS.items():
        file = folder / f'{name}.json'
        if file.is_file():
            results['results'][name] = json.loads(file.read_text(encoding='utf-8'))
            parts.append(f"## {name}\n\n{report(results['results'][name])}")
    log = folder / 'save/gpu/log.txt'
    if log.is_file():
        lines = log.read_text(encoding='utf-8', errors='replace').splitlines()[-LOG_LINES:]
        results['training_log'] = lines
        parts.append('## training\n\n' + '\n'.join(f'    {line}' for line in lines))
    write_text(folder / 'results.json', json.dumps(results, indent=1) + '\n')
    write_text(folder / 'results.md', '\n\n'.join(parts) + '\n')
    print(f'wrote {folder / "results.md"} and {folder / "results.json"}')


if __name__ == '__main__':
    run(main)
