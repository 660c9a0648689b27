from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS

from apa_mmdet.structures.valid_region import mark_valid_region


@MODELS.register_module()
class PaddingAwareDetDataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` that also marks which part of a padded batch is image.

    With it the features of an image in ``SEResNet`` and ``SEResNeXt`` are those that it has alone: attention and
    ``MetaAconC`` pool over its ``pad_shape``, and convolutions see zeros beyond. Without it the result for an image
    depends on the others in its batch. For one image, and for images of one size, there is no difference.

    Exactly so where sizes are padded to multiples of the network's stride (``pad_size_divisor``); otherwise a pool may
    take in one position beyond the border. Norms over positions (GN), plugins and attention of other packages still see
    the padding, and a wrapper that casts the batch to another dtype loses the mark.

    Args:
        pool_padding_in_training: leave training as it is without this class. The published trainings of SE networks
            pooled over the padding.
        kwargs: all other arguments of ``DetDataPreprocessor``.
    """

    def __init__(self, *args, pool_padding_in_training: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.pool_padding_in_training = pool_padding_in_training

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalizes, pads and stacks images, as in the base class; marks the batch."""
        shapes = self._get_pad_shape(data)
        data = super().forward(data, training)
        if training and self.pool_padding_in_training:
            return data
        if data['data_samples']:  # batch_augments may have resized the batch
            shapes = [sample.pad_shape for sample in data['data_samples']]
        mark_valid_region(data['inputs'], shapes)
        return data
