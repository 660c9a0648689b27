"""The base of every learnable activation, and how a slot of a network builds one.

Activations are registered in MMEngine's registry, mmdet's parent: mmdet finds them there by the same name, and so does
mmcv's ConvModule where no default scope is set.
"""

import inspect
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from mmdet.registry import MODELS
from torch import Tensor, nn


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
    cls = _class_of(cfg)
    if cls is None:
        raise KeyError(f'activation {cfg["type"]!r} is not registered')
    if needs_channels(cfg):
        cfg['num_features'] = num_features
    if 'inplace' in inspect.signature(cls).parameters:
        cfg.setdefault('inplace', True)
    return MODELS.build(cfg)


def needs_channels(cfg: dict) -> bool:
    """Whether the config leaves ``num_features`` to the slot; False for a type that is not registered."""
    cls = _class_of(cfg)
    parameter = inspect.signature(cls).parameters.get('num_features') if cls else None
    return parameter is not None and cfg.get('num_features', parameter.default) in (None, inspect.Parameter.empty)


def _class_of(cfg: dict) -> type | None:
    return MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']


class Symbol(NamedTuple):
    """How figures show a parameter: its symbol, the values drawn, and its value while another parameter varies."""

    text: str
    values: tuple[float, ...]
    rest: float


class LearnableActivation(nn.Module):
    """An elementwise activation with trained parameters, one set per channel or one for all channels.

    Figures, hooks and benchmarks find activations by this class. A subclass creates its parameters, calls
    ``reset_parameters``, and defines ``forward``. Figures show it over its parameters if ``function`` and
    ``symbols`` are set, else as it is built.

    Args:
        num_features: C, the size of dimension 1 of the input, which may have any number of dimensions from 2 on; 1 for
            one set of parameters, and any input. SEResNet and SwapActivations fill it in; elsewhere it must be given.
        inplace: of subclasses; accepted because ConvModule passes it. Backward needs the input, so nothing is computed
            in place.

    Attributes:
        function: the formula on tensors, of :mod:`apa_mmdet.ops`; takes the input and its parameters by name.
        symbols: the parameters of ``function`` that vary.
        fixed: the other parameters of ``function``, with their values.
        note: a remark for the title of a figure.

    Raises:
        ValueError: if ``num_features`` is None or below 1; at the first input, if that has other channels.
    """

    function: ClassVar[Callable[..., Tensor]]
    symbols: ClassVar[dict[str, Symbol]] = {}
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
