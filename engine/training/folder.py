"""The run folder save/NAME: whether a run may start there, and from which checkpoint it continues."""
from pathlib import Path

from models.checkpoint import read_checkpoint
from utils import UserError

LAST, BEST = 'epoch-last.pth', 'epoch-best.pth'
LOGS = ('log.txt', 'tensorboard')


def choose_resume(folder: Path, resume: str | None) -> Path | None:
    """The checkpoint to continue from, or None where the run starts.

    Args:
        folder: save/NAME.
        resume: None, 'auto' or a checkpoint file. 'auto' continues epoch-last.pth. Where a run was stopped before it wrote
            one, 'auto' starts afresh: no training is lost by that.
    Raises: UserError for a folder with files of a run that would be mixed with another or overwritten.
    """
    if resume not in (None, 'auto'):
        return Path(resume)
    last = folder / LAST
    if last.exists():
        if resume == 'auto':
            return last
        raise UserError(f'{folder}: this run exists; continue it with -resume auto, or choose another -name')
    trained = [file.name for file in sorted(folder.glob('epoch-*.pth')) if not is_start(file)]
    if trained:
        raise UserError(f"{folder}: holds {', '.join(trained)} but no {LAST}; continue from such a file with -resume FILE, "
                        'or choose another -name')
    if resume is None and any((folder / name).exists() for name in (BEST, *LOGS)):
        raise UserError(f'{folder}: a run began here and was stopped before its first {LAST}; start it afresh with '
                        '-resume auto, or choose another -name')
    return None


def is_start(file: Path) -> bool:
    """Whether a checkpoint is the epoch-best.pth that a second stage writes before its first iteration."""
    if file.name != BEST:
        return False
    content = read_checkpoint(file)
    return content.get('epoch') == content.get('batch') == 0
