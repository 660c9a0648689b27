import numpy as np
import torch
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .device_agnostic_fcn_mask_head import DeviceAgnosticFCNMaskHead


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
        with_mask, positives, before = [], [], 0
        for result, instances in zip(sampling_results, batch_gt_instances):
            # the copy that FCNMaskHead makes for the targets, a bit earlier; nothing else here waits for a GPU
            assigned = result.pos_assigned_gt_inds.cpu()
            has_mask = np.flatnonzero((instances.masks.areas > 0)[assigned.numpy()])
            kept = torch.from_numpy(has_mask)
            on_device = kept.to(mask_preds.device, non_blocking=True)
            with_mask.append(on_device + before)
            before += len(assigned)
            positives.append(
                InstanceData(
                    pos_priors=result.pos_priors[on_device],
                    pos_assigned_gt_inds=assigned[kept],
                    pos_gt_labels=result.pos_gt_labels[on_device],
                )
            )
        return super().loss_and_target(mask_preds[torch.cat(with_mask)], positives, batch_gt_instances, rcnn_train_cfg)
