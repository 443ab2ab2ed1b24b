"""The command `python -m engine.grow`; see `engine/tools/grow.py`."""
from common.cli import run
from engine.tools.grow import main

if __name__ == '__main__':
    run(main)
