"""Published figures, from configs/published.yaml."""
from typing import NamedTuple

from common.scales import AnyScale
from datasets.protocols import OWN_LR, PIL_LR, Protocol
from engine.evaluation.metrics import METRICS
from engine.yaml_files import read_yaml
from utils import ROOT, UserError, nearest_name

PUBLISHED = ROOT / 'configs' / 'published.yaml'


class Published(NamedTuple):
    """Published figures.

    Attributes:
        scores: by method and scale, a value for each metric that is reported.
        sizes: millions of parameters by method.
        lr: by method and scale, the source of the LR images: that of the entry, or the set's own where it has them.
    """
    scores: dict[tuple[str, AnyScale], dict[str, float]] = {}
    sizes: dict[str, float] = {}
    lr: dict[tuple[str, AnyScale], str] = {}


def read_published(paths: list[str], source: str) -> Published:
    """The figures of blocks of configs/published.yaml.

    Args:
        paths: 'TABLE' or 'TABLE.SET'. A block is a list of {method, params_m, a list by scale for each metric}, or a plain
            list of Bicubic's PSNR.
        source: file that names them, for messages.
    """
    tables = read_yaml(PUBLISHED)
    scores: dict[tuple[str, AnyScale], dict[str, float]] = {}
    sizes: dict[str, float] = {}
    lr: dict[tuple[str, AnyScale], str] = {}
    for path in paths:
        name, _, part = str(path).partition('.')
        block = tables.get(name, {}).get(part or 'rows')
        if block is None:
            raise UserError(f"{source}: published: '{path}' is not in {PUBLISHED.name}; {nearest_name(name, tables)}")
        if not isinstance(block[0], dict):
            block = [{'method': 'Bicubic', 'psnr': block}]
        for entry in block:
            for metric in METRICS.entries.keys() & entry.keys():
                for scale, value in zip(tables[name]['scales'], entry[metric]):
                    if value is not None:
                        scores.setdefault((entry['method'], float(scale)), {})[metric] = value
                        own = entry.get('lr', OWN_LR) if scale in Protocol.prepared_scales else PIL_LR
                        lr[entry['method'], float(scale)] = own
            if entry.get('params_m') is not None:
                sizes[entry['method']] = entry['params_m']
    return Published(scores, sizes, lr)
