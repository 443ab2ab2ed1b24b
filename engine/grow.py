"""The command `python -m engine.grow`; see `engine/tools/grow.py`."""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

from common.cli import run
from engine.tools.grow import main

if __name__ == '__main__':
    run(main)
