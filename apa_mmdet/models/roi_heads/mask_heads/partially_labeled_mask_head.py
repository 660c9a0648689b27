from typing import NamedTuple

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor


class Positives(NamedTuple):
    """What the targets of a mask head need of a sampling result: of the P positive RoIs of an image the boxes
    (P, 4), and the indices (P,) and labels (P,) of their ground truth."""

    pos_priors: Tensor
    pos_assigned_gt_inds: Tensor
    pos_gt_labels: Tensor


@MODELS.register_module()
class PartiallyLabeledMaskHead(FCNMaskHead):
    """FCNMaskHead for data in which some instances have a box but no mask.

    A RoI whose ground-truth mask has no pixel takes no part in the mask loss, which is the mean over the others; with
    none left it is zero. To be used with the transform
    :class:`~apa_mmdet.datasets.transforms.loading.LoadPartialMaskAnnotations`, which gives them an empty mask.
    Arguments as mmdet's ``FCNMaskHead``.
    """

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """As of ``FCNMaskHead``; ``mask_targets`` are those of the RoIs that take part."""
        kept, positives = [], []
        for result, instances in zip(sampling_results, batch_gt_instances):
            has_mask = torch.from_numpy(instances.masks.areas > 0).to(mask_preds.device)[result.pos_assigned_gt_inds]
            kept.append(has_mask)
            positives.append(Positives(*(getattr(result, field)[has_mask] for field in Positives._fields)))
        return super().loss_and_target(mask_preds[torch.cat(kept)], positives, batch_gt_instances, rcnn_train_cfg)
