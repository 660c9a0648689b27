import torch
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .device_agnostic_fcn_mask_head import DeviceAgnosticFCNMaskHead

# of a sampling result, what mask targets need for the P positive RoIs of an image: boxes (P, 4), and indices (P,) and
# labels (P,) of the ground truth that each is assigned to
FIELDS = ('pos_priors', 'pos_assigned_gt_inds', 'pos_gt_labels')


@MODELS.register_module()
class PartiallyLabeledMaskHead(DeviceAgnosticFCNMaskHead):
    """``FCNMaskHead`` for data in which some instances have a box but no mask.

    RoIs whose ground-truth mask has no pixel are ignored in the mask loss, which is the mean over the others, and zero
    if there are none. Use it with :class:`~apa_mmdet.datasets.transforms.loading.LoadPartialMaskAnnotations`, which
    loads an empty mask for such instances. Arguments as of ``FCNMaskHead``.
    """

    ignores_missing_masks = True  # the validation of data sets asks

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """As of ``FCNMaskHead``; ``mask_targets`` are those of the RoIs with a mask."""
        with_mask, positives = [], []
        for result, instances in zip(sampling_results, batch_gt_instances):
            has_mask = torch.from_numpy(instances.masks.areas > 0).to(mask_preds.device)[result.pos_assigned_gt_inds]
            with_mask.append(has_mask)
            positives.append(InstanceData(**{field: getattr(result, field) for field in FIELDS})[has_mask])
        return super().loss_and_target(mask_preds[torch.cat(with_mask)], positives, batch_gt_instances, rcnn_train_cfg)
