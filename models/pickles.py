"""Pickles of protocols 4 and 5 → protocol 2, the one that `torch.load(weights_only=True)` reads. Nothing is executed."""
import pickle
import pickletools
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

# bytes, as protocol 2 writes them: _codecs.encode(text, 'latin1')
_BYTES, _LATIN1 = b'c_codecs\nencode\n', b'X\x06\0\0\0latin1\x86R'
_GETS, _PUTS = ('BINGET', 'LONG_BINGET'), ('BINPUT', 'LONG_BINPUT')


def as_protocol_2(path: Path) -> BytesIO:
    """A checkpoint file of torch with its pickle translated.

    Raises: ValueError for an opcode that protocol 2 lacks, and what damaged archives raise.
    """
    out = BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, 'w') as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, _translated(data) if entry.filename.endswith('/data.pkl') else data)
    out.seek(0)
    return out


def _translated(data: bytes) -> bytes:
    """The pickle in opcodes of protocol 2. Texts are written out at every use, other memoised values keep numbers."""
    parts: list[tuple[bytes, str | None]] = []  # opcodes, and the text that they push
    memo: dict[int, str | None] = {}
    count = 0
    operations: list[tuple[Any, Any, Any]] = list(pickletools.genops(data))
    ends = [position for _, _, position in operations[1:]] + [len(data)]
    for (code, value, start), end in zip(operations, ends):
        name = code.name
        if name == 'PROTO':
            parts.append((pickle.PROTO + b'\x02', None))
        elif name in ('BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'):
            parts.append(_text(value))
        elif name in ('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'):
            parts.append((_BYTES + _text(bytes(value).decode('latin1'))[0] + _LATIN1, None))
        elif name == 'STACK_GLOBAL':
            (_, module), (_, attribute) = parts[-2:]
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise ValueError('a global without a name')
            parts[-2:] = [(pickle.GLOBAL + f'{module}\n{attribute}\n'.encode(), None)]
        elif name == 'MEMOIZE' or name in _PUTS:
            number = count if name == 'MEMOIZE' else value
            count += 1
            memo[number] = parts[-1][1]
            if memo[number] is None:
                parts.append((pickle.LONG_BINPUT + number.to_bytes(4, 'little'), None))
        elif name in _GETS:
            text = memo[value]
            parts.append((pickle.LONG_BINGET + value.to_bytes(4, 'little'), None) if text is None else _text(text))
        elif code.proto > 3:
            if name != 'FRAME':
                raise ValueError(f'opcode {name}')
        else:
            parts.append((data[start:end], None))
    return b''.join(part for part, _ in parts)


def _text(value: str) -> tuple[bytes, str]:
    """The opcode that pushes a text, and the text."""
    raw = value.encode('utf-8', 'surrogatepass')
    return pickle.BINUNICODE + len(raw).to_bytes(4, 'little') + raw, value
