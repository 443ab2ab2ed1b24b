"""What a metric is: a number for a prediction and its target, and how tables write it."""
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor

from common.registry import Registry
from common.scales import AnyScale
from datasets.protocols import Protocol

METRICS = Registry('metric')
DEFAULT = ('psnr', 'ssim')


def register(metric: type['Metric']) -> type['Metric']:
    """Decorator that registers a metric under its `name`. A name that is taken raises ValueError."""
    return METRICS.register(metric.name)(metric)


def make(names: Iterable[str] = DEFAULT) -> list['Metric']:
    """The metrics of some names, each once. Raises: UserError for an unknown name, or where a metric cannot be computed."""
    return [METRICS.make_named(name, '-metrics') for name in dict.fromkeys(names)]


class Metric(ABC):
    """Compares predictions with their targets.

    Attributes:
        name: on the command line, and the key in results.json.
        heading: of its table and column, with the unit.
        decimals: digits after the point in tables; ranks go by what is printed.
        higher_is_better: which end ranks first.
        undefined: the value that results.json, which has no infinity and no NaN, writes as null.
    """
    name: str
    heading: str
    decimals: int
    higher_is_better = True
    undefined = math.nan

    def region(self, image: Tensor, protocol: Protocol, scale: AnyScale) -> Tensor:
        """What the metric sees of an image, (3, H, W) RGB in [0, 1]: by default what the protocol compares, (C, H', W')
        float64."""
        return protocol.compared(image, scale)

    @abstractmethod
    def score(self, prediction: Tensor, target: Tensor) -> float:
        """The value for two regions of equal shape."""

    def measure(self, prediction: Tensor, target: Tensor, protocol: Protocol, scale: AnyScale) -> float:
        """The value for two images (3, H, W), RGB in [0, 1]. Raises: UserError when the protocol leaves nothing of them."""
        return self.score(*(self.region(image, protocol, scale) for image in (prediction, target)))

    @classmethod
    def text(cls, value: float) -> str:
        """The value as tables write it."""
        return f'{value:.{cls.decimals}f}'
