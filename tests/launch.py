"""Runs train.py, or other code, in forked processes: PyTorch is imported once for all of them.

    python launch.py JOBS   JOBS as JSON: a list of {cwd, arguments, env, code}; prints their exit statuses, as JSON
    python launch.py        serves a Launcher

A process works in its folder `cwd`, where its output goes to out.txt and err.txt. `code` is what it runs: `run(train.main)`.
They are never forked from the tests' own process, which has had threads by then: a lock that one of them held at the fork
would be held for ever.
"""
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

DEADLINE = 300.0  # seconds a job may take


class Launcher:
    """Starts jobs, and waits for them, from a separate process."""

    def __enter__(self):
        self.server = subprocess.Popen([sys.executable, '-W', 'ignore', __file__], text=True, bufsize=1,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *error):
        self.server.stdin.close()
        self.server.wait()

    def start(self, job: dict) -> int:
        """Starts a job; returns its process's id."""
        return self.ask('start', job)

    def run(self, job: dict) -> int:
        """Starts a job and waits for it."""
        return self.finish(self.start(job))

    def finish(self, process: int) -> int:
        """Waits for a process; returns its exit status, −N when signal N ended it. Raises AssertionError when it hangs."""
        status = self.ask('finish', process)
        assert status is not None, f'process {process} did not end in {DEADLINE:g} s'
        return status

    def ask(self, *request):
        self.server.stdin.write(json.dumps(request) + '\n')
        return json.loads(self.server.stdout.readline())


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


def finish(process: int) -> int | None:
    """Waits for a process; returns its exit status, −N when signal N ended it, or None when it had to be killed."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def serve() -> None:
    """Answers each line of the input, a request of a Launcher, with a line."""
    for line in sys.stdin:
        request, argument = json.loads(line)
        print(json.dumps({'start': start, 'finish': finish}[request](argument)), flush=True)


if __name__ == '__main__':
    import torch

    import train
    from common.cli import run
    if len(sys.argv) > 1:
        print(json.dumps([finish(process) for process in [start(job) for job in json.loads(sys.argv[1])]]))
    else:
        import torch._dynamo  # which every run would import for itself otherwise
        serve()
