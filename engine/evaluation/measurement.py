"""One entry of a comparison."""
from typing import NamedTuple

from common.scales import AnyScale


class Measurement(NamedTuple):
    """A method on a set at a scale. `absent` says why it was not measured; what is not known is None.

    Attributes:
        scores, published: by metric.
        lr, published_lr: the source of the LR images of both.
        params, published_params: number of parameters, and millions of them.
        macs: multiply-adds per output megapixel.
        seconds, memory: per image, and peak in bytes.
        reimplementation: see `Candidate`.
    """
    set: str
    encoder: str
    method: str
    scale: AnyScale
    absent: str | None = None
    scores: dict[str, float] = {}
    published: dict[str, float] = {}
    lr: str | None = None
    published_lr: str | None = None
    params: int | None = None
    published_params: float | None = None
    macs: float | None = None
    seconds: float | None = None
    memory: int | None = None
    reimplementation: str | None = None

    @property
    def line(self) -> tuple[str, str, str]:
        """The line of the tables in which it stands."""
        return self.set, self.encoder, self.method

    @property
    def place(self) -> tuple[str, str, str, AnyScale]:
        """Line and column of the tables."""
        return (*self.line, self.scale)

    @property
    def full_name(self) -> str:
        """'RDN-LTE', 'RDN', 'Bicubic'."""
        return self.method if self.encoder in ('', self.method) else f'{self.encoder}-{self.method}'
