"""SE-ResNet with a slot for every activation.

A *site* is a place in the network that has an activation: ``stem``; in each block ``conv1`` and ``conv2`` (after the
first and second convolution; a BasicBlock has no ``conv2`` site) and ``out`` (after the sum). Every site has its own
module, ``act_<site>``.
"""

from collections.abc import Sequence

import torch.utils.checkpoint as cp
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from mmdet.models.layers import ResLayer
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.checkpoint.pretrained import checked_pretrained
from apa_mmdet.models.activations import build_activation
from apa_mmdet.models.layers import build_attention, norm_act, residual_act
from apa_mmdet.models.layers.norm_act import is_plain_sequential
from apa_mmdet.ops import call_with_recomputation
from apa_mmdet.structures.valid_region import ValidRegion, clear_outside, valid_region_of


class SEBlock:
    """Mixin for mmdet's two residual blocks: an activation per site, attention, and fused norms and activations."""

    sites = ('conv1', 'conv2', 'out')
    convs = 3

    def __init__(self, *args, act_cfg: dict[str, dict], se_cfg: dict | None, recompute_act: bool, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        del self.relu  # mmdet's blocks use one activation at all sites
        channels = getattr(self, f'conv{self.convs}').out_channels
        for site in self.sites:
            width = channels if site == 'out' else getattr(self, site).out_channels
            self.add_module(f'act_{site}', build_activation(act_cfg[site], width))
        self.se = nn.Identity() if se_cfg is None else build_attention(se_cfg, channels)
        self.recompute_act = recompute_act

    def forward(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, region, use_reentrant=False)
        return self._forward(x, region)

    def _forward(self, x: Tensor, region: ValidRegion | None) -> Tensor:
        identity, identity_norm = self._shortcut(x)
        out, norm = self._branch(x, region)
        return residual_act(out, norm, self.se, identity, identity_norm, self.act_out, self.recompute_act, region)

    def _norm_act(self, x: Tensor, i: int, region: ValidRegion | None) -> Tensor:
        return norm_act(x, getattr(self, f'norm{i}'), getattr(self, f'act_conv{i}'), self.recompute_act, region)

    def _shortcut(self, x: Tensor) -> tuple[Tensor, nn.Module | None]:
        """The identity and its norm, None if that has been applied or does not exist."""
        if self.downsample is None:
            return x, None
        if not is_plain_sequential(self.downsample):
            return self.downsample(x), None
        *layers, norm = self.downsample
        for layer in layers:
            x = call_with_recomputation(layer, x)
        return x, norm


class SEBasicBlock(SEBlock, BasicBlock):
    """BasicBlock of ResNet-18/34 with an activation per site and SE after the second norm."""

    sites = ('conv1', 'out')
    convs = 2

    def _branch(self, x: Tensor, region: ValidRegion | None) -> tuple[Tensor, nn.Module]:
        """The residual branch before its last norm, and that norm."""
        out = self._norm_act(call_with_recomputation(self.conv1, clear_outside(x, region)), 1, region)
        return call_with_recomputation(self.conv2, clear_outside(out, region)), self.norm2


class SEBottleneck(SEBlock, Bottleneck):
    """Bottleneck of ResNet-50 and deeper with an activation per site and SE after the third norm."""

    def _plugins(self, x: Tensor, position: str) -> Tensor:
        return self.forward_plugin(x, getattr(self, f'{position}_plugin_names')) if self.with_plugins else x

    def _branch(self, x: Tensor, region: ValidRegion | None) -> tuple[Tensor, nn.Module]:
        """The residual branch before its last norm, and that norm; after it if plugins follow."""
        out = self._plugins(self._norm_act(call_with_recomputation(self.conv1, x), 1, region), 'after_conv1')
        out = call_with_recomputation(self.conv2, clear_outside(out, region))  # the others see no neighbors
        out = self._plugins(self._norm_act(out, 2, region), 'after_conv2')
        out = call_with_recomputation(self.conv3, out)
        if self.with_plugins and self.after_conv3_plugin_names:
            return self._plugins(self.norm3(out), 'after_conv3'), nn.Identity()
        return out, self.norm3


class SEResLayer(ResLayer):
    """mmdet's ``ResLayer`` whose blocks pool within the region of a padded batch."""

    def forward(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        for block in self:
            x = block(x) if region is None else block(x, region)
        return x


@MODELS.register_module()
class SEResNet(ResNet):
    """ResNet-v1.5 with squeeze and excitation in every block and a slot for every activation.

    ``SEResNet(depth)`` alone is the APA network of Alexandridis et al. (ECCV 2024, arXiv:2407.08567):
    AGLU activations and an APA gate in the attention. Its baseline is ``act_cfg=dict(type='ReLU'),
    se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.)``.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        act_cfg: one config for all sites, or one per site: ``dict(stem=…, conv1=…, conv2=…, out=…)``, where the
            default is AGLU. Every site builds a module of its own, and passes its channel count if needed.
        se_cfg: arguments of :class:`~apa_mmdet.models.layers.SELayer`, whose defaults are the APA attention; with a
            ``type``, those of another registered attention that takes ``channels``, such as ``dict(type='CBAM')``,
            :class:`~apa_mmdet.models.layers.CBAM`. None for no attention.
        recompute_act: keep only the results of the convolutions for backward, and recompute those of the activations
            from them: less memory for one more pointwise pass. ``with_cp`` keeps still less, for a second run of the
            convolutions; the two exclude each other, and other checkpointing around this backbone saves less with it.
        frozen_blocks: first blocks of the stage after the ``frozen_stages`` that are frozen with them.
        kwargs: all other arguments of mmdet's ``ResNet``. ``frozen_stages >= 0`` freezes the stem's activation with
            the stem, so that nothing below the first trained stage is differentiated.

    Shape: (N, 3, H, W) → (N, C_i, H/s_i, W/s_i) for each of ``out_indices``. Attention pools over the part of a padded
    batch that is image where the batch says so, as that of
    :class:`~apa_mmdet.models.data_preprocessors.PaddingAwareDetDataPreprocessor` does.

    Raises:
        ValueError: for an unknown depth or site, an invalid ``act_cfg``, or ``recompute_act`` together with
            ``with_cp``; in ``init_weights``, if the file that ``init_cfg`` names has the weights of another network.
        KeyError: for an activation or attention that is not registered.
        FileNotFoundError: in ``init_weights``, if there is no such file.
    """

    arch_settings = {
        18: (SEBasicBlock, (2, 2, 2, 2)),
        34: (SEBasicBlock, (3, 4, 6, 3)),
        50: (SEBottleneck, (3, 4, 6, 3)),
        101: (SEBottleneck, (3, 4, 23, 3)),
        152: (SEBottleneck, (3, 8, 36, 3)),
    }
    stem_strides: tuple[int, ...] = (2, 2)  # of its convolution and its pool

    def __init__(
        self,
        depth: int,
        act_cfg: dict = dict(type='AGLU'),
        se_cfg: dict | None = dict(),
        recompute_act: bool = False,
        frozen_blocks: int = 0,
        **kwargs,
    ) -> None:
        if recompute_act and kwargs.get('with_cp'):
            raise ValueError(
                f'{type(self).__name__}: with_cp and recompute_act exclude each other, because with_cp already '
                'recomputes whole blocks; choose one of them'
            )
        if depth not in self.arch_settings:
            raise ValueError(f'{type(self).__name__}: unknown depth {depth}, choose from {list(self.arch_settings)}')
        self.act_cfg = per_site(act_cfg, ('stem', *self.arch_settings[depth][0].sites))
        self.se_cfg = se_cfg
        self.recompute_act = recompute_act
        self.frozen_blocks = frozen_blocks
        self.default_init = kwargs.get('init_cfg') is None and kwargs.get('pretrained') is None
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs) -> ResLayer:
        if self.default_init and self.zero_init_residual:  # mmdet's ResNet does it only for its own two blocks
            kwargs['init_cfg'] = dict(type='Constant', val=0, override=dict(name=f'norm{self.block.convs}'))
        return SEResLayer(act_cfg=self.act_cfg, se_cfg=self.se_cfg, recompute_act=self.recompute_act, **kwargs)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        if self.deep_stem:
            for i, layer in enumerate(self.stem):
                if isinstance(layer, nn.ReLU):
                    self.stem[i] = build_activation(self.act_cfg['stem'], self.stem[i - 2].out_channels)
        else:
            del self.relu
            self.act_stem = build_activation(self.act_cfg['stem'], stem_channels)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0 and not self.deep_stem:
            self.act_stem.eval()
            self.act_stem.requires_grad_(False)
        if self.frozen_blocks:
            stage = self.frozen_stages
            blocks = list(getattr(self, self.res_layers[stage])) if 0 <= stage < self.num_stages else []
            if self.frozen_blocks > len(blocks):
                raise ValueError(
                    f'{type(self).__name__}: frozen_blocks={self.frozen_blocks}, but the stage after '
                    f'frozen_stages={stage} has {len(blocks)} blocks; both count from the input'
                )
            for block in blocks[: self.frozen_blocks]:
                block.eval()
                block.requires_grad_(False)

    def _stem(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        if self.deep_stem and not is_plain_sequential(self.stem):
            return self.maxpool(self.stem(x))
        layers = self.stem if self.deep_stem else (self.conv1, self.norm1, self.act_stem)
        for conv, norm, act in zip(layers[::3], layers[1::3], layers[2::3]):
            x = call_with_recomputation(conv, clear_outside(x, region))
            x = norm_act(x, norm, act, self.recompute_act, region)
        return call_with_recomputation(self.maxpool, x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        region = valid_region_of(x, (*self.stem_strides, *self.strides))
        x = self._stem(x, region)
        outs = []
        for i, name in enumerate(self.res_layers):
            layer = getattr(self, name)
            x = layer(x) if region is None else layer(x, region)
            if i in self.out_indices:
                outs.append(clear_outside(x, region))
        return tuple(outs)

    def train(self, mode: bool = True) -> 'SEResNet':
        super().train(mode)
        return self  # mmdet's returns None, so that net.eval() could not be chained

    def init_weights(self) -> None:
        with checked_pretrained(self):
            super().init_weights()


def per_site(act_cfg: dict, sites: Sequence[str]) -> dict[str, dict]:
    """Returns one config for each of ``sites``.

    Raises:
        ValueError: for an invalid config, an unknown site, or a ``type`` together with sites.
    """
    if not isinstance(act_cfg, dict):
        raise ValueError(
            f"act_cfg: {act_cfg!r} is neither a config such as dict(type='AGLU') nor a dict with one for each site"
        )
    if 'type' in act_cfg:
        given = [site for site in ('stem', 'conv1', 'conv2', 'out') if site in act_cfg]
        if given:
            raise ValueError(
                f'act_cfg has both a type and sites ({", ".join(given)}); a config that replaces the one by the other '
                'needs _delete_=True'
            )
        return dict.fromkeys(sites, act_cfg)
    unknown = sorted(set(act_cfg) - set(sites))
    if unknown:
        raise ValueError(
            f'act_cfg: unknown site {unknown[0]!r}, this depth has {list(sites)}; or give one config with a `type`'
        )
    for site, cfg in act_cfg.items():
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ValueError(f"act_cfg: {cfg!r} of site {site!r} is not a config such as dict(type='ReLU')")
    return {site: act_cfg.get(site, dict(type='AGLU')) for site in sites}
