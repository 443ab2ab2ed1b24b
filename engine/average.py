"""The command `python -m engine.average`; see `engine/tools/average.py`."""
from common.cli import run
from engine.tools.average import main

if __name__ == '__main__':
    run(main)
