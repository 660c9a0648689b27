from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS


@MODELS.register_module()
class PredictorClsHead(LinearClsHead):
    """MMPretrain's LinearClsHead with a slot for the layer that gives the logits.

    Args:
        num_classes, in_channels: C and D; input: pooled features (N, D), logits (N, C).
        cls_predictor_cfg: config of the layer, which takes ``in_features`` and ``out_features``, such as
            ``dict(type='CosineLinear')``; a name as in mmdet's ``BBoxHead``. It initializes itself.
        init_cfg: None, or another initialization.
        kwargs: all other arguments of LinearClsHead, such as ``loss``.

    Raises:
        KeyError: if the type of the layer is not registered.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        cls_predictor_cfg: dict = dict(type='CosineLinear'),
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)
        self.fc = MODELS.build(dict(cls_predictor_cfg, in_features=in_channels, out_features=num_classes))
