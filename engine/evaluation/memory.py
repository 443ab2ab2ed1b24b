"""The peak of memory use between two points of the program."""
from pathlib import Path

import torch

CLEAR_REFS, STATUS = Path('/proc/self/clear_refs'), Path('/proc/self/status')  # of Linux; see proc(5)


def reset_peak(device: torch.device) -> None:
    """Resets what `peak` reports; that of a process only where the system allows it."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            CLEAR_REFS.write_text('5')
        except OSError:
            return


def peak(device: torch.device) -> int | None:
    """Most bytes in use since `reset_peak`: tensors on a GPU, or the whole process; None where the system does not say."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if not STATUS.is_file():
        return None
    fields = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
    return int(fields['VmHWM'].split()[0]) * 1024 if 'VmHWM' in fields else None
