from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class PaddingAwareRPNHead(RPNHead):
    """mmdet's ``RPNHead`` that predicts from the part of each map that an image would have alone.

    mmdet's own does not train the anchors outside of ``pad_shape``, but proposes from them: in a batch of images of
    unequal size they take the places of proposals that an image has alone. Arguments, parameters and training are those
    of ``RPNHead``; so is the result for images of one size.
    """

    def predict(
        self, x: tuple[Tensor, ...], batch_data_samples: SampleList, rescale: bool = False
    ) -> list[InstanceData]:
        """Returns the proposals of each image from maps (N, C, h, w), one for each stride."""
        shapes = [sample.get('pad_shape') for sample in batch_data_samples]
        if len(set(shapes)) == 1:
            return super().predict(x, batch_data_samples, rescale)
        proposals = []
        for i, (sample, (height, width)) in enumerate(zip(batch_data_samples, shapes)):
            strides = self.prior_generator.strides  # of an anchor generator: in x and in y
            parts = (m[i : i + 1, :, : -(-height // sy), : -(-width // sx)] for m, (sx, sy) in zip(x, strides))
            proposals += super().predict(tuple(parts), [sample], rescale)
        return proposals
