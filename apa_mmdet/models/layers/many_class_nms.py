"""Non-maximum suppression of many classes. Letters: K candidates, C classes."""

import torch
from mmcv.ops import batched_nms
from torch import Tensor

# Candidates of one NMS, which takes up to K²/2 comparisons on a CPU and a synchronization on a GPU. 20,000 candidates
# of 13,204 classes take 23 ms on one core in groups of 256, 36 ms of 1,024 (20 synchronizations), 61 ms of 2,048.
GROUP = 1024


def many_class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, nms_cfg: dict | None) -> tuple[Tensor, Tensor]:
    """mmcv's ``batched_nms`` without its loop over classes; the detections are the same.

    From 10,000 candidates on, mmcv's runs an NMS for each class, with several synchronizations on a GPU. This one sorts
    the candidates by class and runs an NMS for each group of up to 1,024, in which no class is divided. A group takes
    K²/8 bytes on a GPU, 128 KiB; one class that alone has more candidates is a group of its own.

    Boxes are shifted apart by class as in mmcv's, so that they are rounded as there: float32 shifts of up to C times
    the size of the image round to 2 pixels at 13,204 classes. Of 1,200 detections among 12,000 random candidates around
    objects of 32 to 96 pixels, some 80 are others than without the rounding. Which of a class's candidates with equal
    scores comes first is open, here as there.

    Args:
        boxes: (K, 4) as x1, y1, x2, y2.
        scores: (K,).
        labels: (K,), integers from 0.
        nms_cfg: as of ``batched_nms``: ``dict(type='nms', iou_threshold=0.5)``, ``soft_nms``, ``max_num``, with
            ``split_thr`` as the size of a group. With ``class_agnostic=True`` all are one group, of K²/8 bytes on a
            GPU; mmcv's would compare within classes alone from ``split_thr`` on. None only sorts by score.

    Returns:
        Detections (M, 5), boxes and scores, by descending score, and their indices among the candidates (M,).

    Example:
        >>> boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [0., 0., 9., 9.]])
        >>> scores, labels = torch.tensor([0.7, 0.8, 0.9]), torch.tensor([3, 3, 5])
        >>> many_class_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))[1]
        tensor([2, 1])
    """
    if len(boxes) == 0:  # mmcv's takes the maximum of the boxes
        return torch.cat([boxes, scores[:, None]], 1), labels.new_zeros(0)
    if nms_cfg is None:
        return batched_nms(boxes, scores, labels, None)
    nms_cfg = dict(nms_cfg)
    group, max_num = nms_cfg.pop('split_thr', GROUP), nms_cfg.pop('max_num', -1)
    one_nms = dict(nms_cfg, class_agnostic=True, split_thr=len(boxes) + 1)
    labels = torch.zeros_like(labels) if nms_cfg.get('class_agnostic') else labels
    by_class, order = labels.sort(stable=True)
    counts = torch.unique_consecutive(by_class, return_counts=True)[1].tolist()
    del by_class  # with random weights K may be millions
    shift = boxes.max() + 1
    kept, kept_scores = [], []
    for members in order.split(_group_sizes(counts, group)):
        shifted = boxes[members] + (labels[members].to(boxes) * shift)[:, None]
        dets, keep = batched_nms(shifted, scores[members], labels[members], one_nms)
        kept.append(members[keep])
        kept_scores.append(dets[:, -1].clone())  # soft NMS lowers them
    keep, in_order = torch.cat(kept).sort()  # so that equal scores stay in the candidates' order
    dets, by_score = torch.cat(kept_scores)[in_order].sort(descending=True, stable=True)
    most = slice(max_num if max_num > 0 else None)
    keep = keep[by_score][most]
    return torch.cat([boxes[keep], dets[most, None]], 1), keep


def _group_sizes(counts: list[int], most: int) -> list[int]:
    """Sizes of groups of consecutive classes, of at most ``most`` candidates or one class.

    Example:
        >>> _group_sizes([2, 3, 9, 1, 1], 5)
        [5, 9, 2]
    """
    sizes = [0]
    for count in counts:
        if sizes[-1] and sizes[-1] + count > most:
            sizes.append(0)
        sizes[-1] += count
    return sizes
