"""The command `python -m engine.export`; see `engine/tools/export.py`."""
from common.cli import run
from engine.tools.export import main

if __name__ == '__main__':
    run(main)
