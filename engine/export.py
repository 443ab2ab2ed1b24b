"""The command `python -m engine.export`; see `engine/tools/export.py`."""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

from common.cli import run
from engine.tools.export import main

if __name__ == '__main__':
    run(main)
