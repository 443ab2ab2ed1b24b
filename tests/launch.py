"""Runs train.py, or other code, in forked processes: PyTorch is imported once for all of them.

    python launch.py JOBS   JOBS as JSON: a list of {cwd, arguments, env, code}; prints their exit statuses, as JSON

A process works in its folder `cwd`, where its output goes to out.txt and err.txt. `code` is what it runs: `run(train.main)`.
"""
import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import train
from engine.cli import run


def start(job: dict) -> int:
    """Starts a job; returns its process's id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        torch.set_num_threads(1)  # threads of the parent's are not there after a fork
        os.chdir(job['cwd'])
        for stream, name in ((1, 'out.txt'), (2, 'err.txt')):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.environ.update(job.get('env', {}))
        sys.argv = ['train.py', *job.get('arguments', [])]
        exec(job.get('code', 'run(train.main)'), {'run': run, 'train': train})
        status = 0
    except SystemExit as leaving:
        status = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(process: int) -> int:
    """Waits for a process; returns its exit status, −N when signal N ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == '__main__':
    print(json.dumps([finish(process) for process in [start(job) for job in json.loads(sys.argv[1])]]))
