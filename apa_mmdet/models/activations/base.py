"""The base of every learnable activation, and how a slot of a network builds one.

Activations are registered in MMEngine's registry, mmdet's parent: mmdet finds them there by the same name, and so does
mmcv's ConvModule where no default scope is set.
"""

import inspect
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.utils.registered_classes import class_of


def build_activation(cfg: dict, num_features: int) -> nn.Module:
    """Builds a new activation for one slot of a network.

    ``num_features`` is passed on where the config asks for it with ``num_features=None``, or omits it and the
    activation has no default. Any registered activation can be built, learnable or not.

    Args:
        cfg: e.g. ``dict(type='AGLU')`` or ``dict(type='AGLU', num_features=None)``.
        num_features: channel count of the slot.

    Raises:
        KeyError: if the type is not registered.
    """
    cfg = dict(cfg)
    cls = class_of(cfg)
    if cls is None:
        raise KeyError(f'activation {cfg["type"]!r} is not registered')
    if needs_channels(cfg):
        cfg['num_features'] = num_features
    if 'inplace' in inspect.signature(cls).parameters:
        cfg.setdefault('inplace', True)
    return MODELS.build(cfg)


def needs_channels(cfg: dict) -> bool:
    """Whether the config leaves ``num_features`` to the slot; False for a type that is not registered."""
    cls = class_of(cfg)
    parameter = inspect.signature(cls).parameters.get('num_features') if cls else None
    return parameter is not None and cfg.get('num_features', parameter.default) in (None, inspect.Parameter.empty)


class Healthy(NamedTuple):
    """The values of a parameter between which, without the ends, an activation learns and computes well.

    Example:
        >>> Healthy(0, 1).holds(np.array([0.0, 0.5, 1.0, np.nan])).tolist()
        [False, True, False, False]
    """

    low: float = -math.inf
    high: float = math.inf
    otherwise: str = ''  # what a value outside means, for the warning about it

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Where values are within; they are finite there."""
        return (values > self.low) & (values < self.high)

    @property
    def is_bounded(self) -> bool:
        return self.low > -math.inf or self.high < math.inf


class Symbol(NamedTuple):
    """A parameter: its symbol, the values in figures, its value there while another one varies, its healthy range."""

    text: str
    values: tuple[float, ...]
    rest: float
    healthy: Healthy = Healthy()


class LearnableFunction(nn.Module):
    """A function with a few trained parameters, which hooks log and check: an activation, or the link of a loss.

    Attributes:
        symbols: its parameters by the names of the module's attributes that hold their values.
    """

    symbols: ClassVar[dict[str, Symbol]] = {}

    def watched(self) -> dict[str, Tensor]:
        """Returns the values that hooks log and check, by name, (C,) each, with a gradient.

        By default those of ``symbols``, as far as they are attributes and not computed from the input, or without any
        the parameters of the module itself.

        Example:
            >>> from apa_mmdet.models.activations import APALU
            >>> {name: round(values.item(), 4) for name, values in APALU(1).watched().items()}
            {'a': 0.5, 'b': 0.75}
        """
        found = {name: getattr(self, name, None) for name in self.symbols}
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        return tensors or dict(self.named_parameters(recurse=False))

    def symbol_of(self, name: str) -> Symbol:
        """Returns the symbol of a :meth:`watched` value: its name and no range where ``symbols`` has none."""
        return self.symbols.get(name) or Symbol(name, (), 0)


class LearnableActivation(LearnableFunction):
    """An elementwise activation with trained parameters, one set per channel or one for all channels.

    Figures, hooks and benchmarks find activations by this class. A subclass creates its parameters, calls
    ``reset_parameters``, and defines ``forward``. Figures show it over its parameters if ``function`` and
    ``symbols`` are set, else as it is built. Hooks log and check its :meth:`watched` values.

    Args:
        num_features: C, the size of dimension 1 of the input, which may have any number of dimensions from 2 on; 1 for
            one set of parameters, and any input. SEResNet and SwapActivations fill it in; elsewhere it must be given.
        inplace: of subclasses; accepted because ConvModule passes it. Backward needs the input, so nothing is computed
            in place.

    Attributes:
        function: the formula on tensors, of :mod:`apa_mmdet.ops`; takes the input and its parameters by name.
        symbols: the parameters of ``function`` that vary; attributes of the module by that name are their values.
        fixed: the other parameters of ``function``, with their values.
        note: a remark for the title of a figure.

    Raises:
        ValueError: if ``num_features`` is None or below 1; at the first input, if that has other channels.
    """

    function: ClassVar[Callable[..., Tensor]]
    fixed: ClassVar[dict[str, float]] = {}
    note: ClassVar[str] = ''

    def __init__(self, num_features: int | None) -> None:
        super().__init__()
        name = type(self).__name__
        if num_features is None:
            raise ValueError(
                f'{name}(num_features=None) takes the channel count of its slot, which is not known here: set '
                'num_features=…, the channels of this layer; SEResNet and SwapActivations fill it in'
            )
        if num_features < 1:
            raise ValueError(f'{name}: num_features must be at least 1, got {num_features}')
        self.num_features = num_features

    def reset_parameters(self) -> None:
        """Sets the parameters to their initial values; random ones are drawn again."""
        raise NotImplementedError(f'{type(self).__name__} does not define reset_parameters')

    def extra_repr(self) -> str:
        return f'num_features={self.num_features}'

    def curves(self) -> tuple[Callable[[Tensor], Tensor], int]:
        """Returns a function of (points, n) that applies curve i to column i, and n: what figures draw.

        By default one curve for each set of parameters.
        """
        return self, self.num_features

    def curves_note(self) -> str:
        """Returns a remark on :meth:`curves` for a figure."""
        return ''


def learnable_activations() -> dict[str, type[LearnableActivation]]:
    """Returns all registered learnable activations, by name in alphabetical order.

    Example:
        >>> ', '.join(list(learnable_activations())[:3])
        'AGLU, APA, APALU'
    """
    classes: list[type[LearnableActivation]] = [LearnableActivation]
    for cls in classes:
        classes += cls.__subclasses__()
    return {cls.__name__: cls for cls in sorted(classes, key=lambda c: c.__name__) if MODELS.get(cls.__name__) is cls}
