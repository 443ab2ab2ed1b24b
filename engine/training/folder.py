"""The run folder save/NAME: whether a run may start there, and from which checkpoint it continues."""
from pathlib import Path

from engine.checkpoint import copy_checkpoint
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


def write_missing(folder: Path, checkpoint: dict) -> list[str]:
    """Writes what a run should have written after its epoch-last.pth, before it was killed or its disk was full.

    The epoch-best.pth and epoch-N.pth of an epoch hold what epoch-last.pth holds after it, so they are copies of that file.

    Args:
        checkpoint: the content of epoch-last.pth.
    Returns: the names of the files.
    """
    if checkpoint['batch']:  # amid an epoch, so the run had gone on after the last one
        return []
    epoch, every = checkpoint['epoch'], checkpoint['config'].get('epoch_save')
    missing = [BEST] if checkpoint.get('best_epoch') == epoch and not _is_of_epoch(folder / BEST, epoch) else []
    if isinstance(every, int) and every > 0 and epoch % every == 0 and not (folder / f'epoch-{epoch}.pth').exists():
        missing.append(f'epoch-{epoch}.pth')
    for name in missing:
        copy_checkpoint(folder / LAST, folder / name)
    return missing


def _is_of_epoch(file: Path, epoch: int) -> bool:
    """Whether a file is the checkpoint that was written after an epoch."""
    try:
        content = read_checkpoint(file)
    except UserError:  # there is none, or it is damaged
        return False
    return content.get('epoch') == epoch and content.get('batch') == 0
