"""Weight decay of learnable activations."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from apa_mmdet.models.activations import LearnableFunction


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ActivationOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which exempts what activations learn from weight decay.

    Decay pulls λ and κ to 0, where AGLU is linear, and the slopes of ACON and APALU as well, against the advice of
    their authors. Exempt are the own parameters of every ``LearnableActivation`` and of the link ``apa`` of DropLoss,
    wherever they are in the model. Layers inside an activation, as Meta-ACON's convolutions, decay as others do.

    Args:
        optim_wrapper_cfg: as of MMEngine's constructor.
        paramwise_cfg: as there, and ``activation_decay_mult``: a factor of the weight decay of all these parameters, or
            a dict of factors by class, ``dict(AGLU=1.0, APA=1.0)``; 0 for a class that it lacks, and by default. A key
            of ``custom_keys`` that matches a parameter and has a ``decay_mult`` comes first.

    Without further settings of single parameters the optimizer has one group for each factor that occurs.

    Raises:
        ValueError: for a factor that is not a number of 0 or more, or one other than 0 and 1 without ``weight_decay``.

    Example:
        >>> from apa_mmdet.models.activations import AGLU
        >>> optimizer = dict(type='SGD', lr=0.1, weight_decay=0.01)
        >>> constructor = ActivationOptimWrapperConstructor(dict(optimizer=optimizer))
        >>> wrapper = constructor(nn.Sequential(nn.Linear(2, 2), AGLU()))
        >>> {group['weight_decay']: len(group['params']) for group in wrapper.optimizer.param_groups}
        {0.01: 2, 0.0: 2}
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.decay_mult = paramwise_cfg.setdefault('activation_decay_mult', 0.0)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        factors = self.decay_mult.values() if isinstance(self.decay_mult, dict) else [self.decay_mult]
        for factor in factors:
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor >= 0:
                raise ValueError(f'paramwise_cfg.activation_decay_mult has {factor!r}; give a number of 0 or more')
            if self.base_wd is None and factor not in (0, 1):
                raise ValueError('paramwise_cfg.activation_decay_mult needs optimizer.weight_decay')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: Any = None) -> None:
        """Adds the groups of a module and of those inside it to ``params``."""
        if len(self.paramwise_cfg) == 1:
            return self._add_groups(params, module)
        known = len(params)
        super().add_params(params, module, prefix, is_dcn_module)  # comes back here for each child
        factor = self._factor_of(module)
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        for group in params[known:] if factor is not None else ():
            if id(group['params'][0]) in own and 'decay_mult' not in group:
                group.update(self._decay(factor))

    def _add_groups(self, params: list[dict], model: nn.Module) -> None:
        """Adds one group for each factor, which an optimizer computes faster than one for each parameter."""
        factors = {}
        for module in model.modules():
            factor = self._factor_of(module)
            if factor is not None:
                factors.update({id(parameter): factor for parameter in module.parameters(recurse=False)})
        groups: dict[float, list] = {1.0: []}
        for parameter in model.parameters():
            groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        params += [dict(params=group, **self._decay(factor)) for factor, group in groups.items() if group]

    def _decay(self, factor: float) -> dict:
        if factor == 1:
            return {}  # the optimizer's own
        return dict(weight_decay=factor * (self.base_wd or 0.0))

    def _factor_of(self, module: nn.Module) -> float | None:
        """The factor for the own parameters of a module; None if it is no activation."""
        if not isinstance(module, LearnableFunction):
            return None
        mult = self.decay_mult
        return float(mult.get(type(module).__name__, 0.0) if isinstance(mult, dict) else mult)
