import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from apa_mmdet import ops

from .base import LearnableActivation, Symbol

P1 = Symbol('p₁', (-0.5, 0.5, 1, 1.5), 1)
P2 = Symbol('p₂', (-0.5, 0, 0.5, 0.75), 0)
BETA = Symbol('β', (0, 0.5, 1, 2, 5), 1)


class AconActivation(LearnableActivation):
    """An activation with p₁, p₂ and β: those ``learned`` are parameters of shape (C,), those ``fixed`` are buffers.

    Official files have the shape (1, C, 1, 1), and load. Here they have one dimension, because MMDetection's
    transformers initialize all their parameters of more dimensions.
    """

    function = staticmethod(ops.acon)
    learned: tuple[str, ...] = ()

    def __init__(self, num_features: int | None = None, inplace: bool = False) -> None:
        super().__init__(num_features)
        for name in self.learned:
            setattr(self, name, nn.Parameter(torch.empty(num_features)))
        for name in self.fixed:
            self.register_buffer(name, torch.empty(()), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws p₁ and p₂ again and sets β to 1, as far as they are learned; sets the others to their values."""
        for name in self.learned:
            init = nn.init.ones_ if name == 'beta' else nn.init.normal_
            init(getattr(self, name))
        for name, value in self.fixed.items():
            getattr(self, name).fill_(value)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        for name in (prefix + name for name in self.learned):
            if name in state_dict and state_dict[name].shape == (1, self.num_features, 1, 1):
                state_dict[name] = state_dict[name].flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class AconC(AconActivation):
    r"""ACON-C: a smooth maximum of two lines through 0, learned for each channel.

    .. math:: S(x) = (p_1 - p_2) x \cdot σ(β (p_1 - p_2) x) + p_2 x

    β says how sharply it activates: β → ∞ is max(p₁x, p₂x), β = 0 their mean. Source: Ma et al., *Activate or Not:
    Learning Customized Activation*, CVPR 2021, arXiv:2009.04759, section 3.2. p₁ and p₂ start from N(0, 1), β at 1.
    Official weights load. Dtypes and limits as :func:`apa_mmdet.ops.acon`; arguments and errors as
    :class:`LearnableActivation`.

    Example:
        >>> act = AconC(3)
        >>> for name, value in dict(p1=1., p2=0., beta=1.).items():      # SiLU
        ...     _ = nn.init.constant_(getattr(act, name), value)
        >>> act(torch.full((1, 3), 2.)).tolist()      # 2·σ(2)
        [[1.7615..., 1.7615..., 1.7615...]]
    """

    learned = ('p1', 'p2', 'beta')
    symbols = dict(p1=P1, p2=P2, beta=BETA)

    def forward(self, x: Tensor) -> Tensor:
        return ops.acon(x, self.p1, self.p2, self.beta)


@MODELS.register_module()
class AconB(AconC):
    """ACON-B: :class:`AconC` with p₁ = 1, so ``(1 − p₂)·x·σ(β·(1 − p₂)·x) + p₂·x``, a smooth PReLU.

    Arguments and errors as :class:`AconC`; p₂ starts from N(0, 1), β at 1.

    Example:
        >>> act = AconB(1)
        >>> _ = nn.init.constant_(act.p2, .25), nn.init.constant_(act.beta, 1000.)      # PReLU
        >>> act(torch.tensor([-2., 2.])).tolist()
        [-0.5, 2.0]
    """

    learned = ('p2', 'beta')
    fixed = dict(p1=1.0)
    symbols = dict(p2=P2, beta=BETA)


@MODELS.register_module()
class AconA(AconC):
    """ACON-A: :class:`AconC` with p₁ = 1 and p₂ = 0, so ``x·σ(β·x)``, Swish; SiLU at the start, where β = 1.

    Arguments and errors as :class:`AconC`.

    Example:
        >>> AconA(1)(torch.tensor([2.])).item()      # 2·σ(2)
        1.7615...
    """

    learned = ('beta',)
    fixed = dict(p1=1.0, p2=0.0)
    symbols = dict(beta=BETA)
