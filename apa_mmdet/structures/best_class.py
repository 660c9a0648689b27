"""One detection for each object, whatever number of classes it is detected as."""

from mmcv.ops import nms
from mmengine.structures import InstanceData

SAME_OBJECT_IOU = 0.7  # boxes of one object from heads that refine them by class overlap by 0.8 and more


def best_class_of_each_object(instances: InstanceData, iou_threshold: float = SAME_OBJECT_IOU) -> InstanceData:
    """Keeps the best of the detections whose boxes are nearly equal, in falling order of scores.

    With sigmoid-like scores, such as those of GOL's DropLoss, classes do not compete: an object may be detected with a
    high score as each of several classes. That is right for average precision, which ranks the detections of each class
    by themselves, and misleading where a person reads them.

    Args:
        instances: ``bboxes`` (N x 4), ``scores`` (N), and anything else of length N.
        iou_threshold: above this overlap two boxes are of one object.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
        >>> found = InstanceData(bboxes=boxes, scores=torch.tensor([0.6, 0.9, 0.5]), labels=torch.tensor([3, 1, 3]))
        >>> best_class_of_each_object(found).labels
        tensor([1, 3])
    """
    if not len(instances):
        return instances
    _, kept = nms(instances.bboxes.float(), instances.scores.float(), iou_threshold)
    return instances[kept]
