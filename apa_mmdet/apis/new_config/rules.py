"""The rules by which a config is chosen: tables of numbers and of the configs that a new one starts from.

They follow the recipes of this project (docs/train.md, docs/ablation.md); where nothing is measured between two of
them, the bound is a guess between. docs/choosing.md and docs/dataset_prepare.md show them to users.
"""

from collections.abc import Callable
from typing import NamedTuple

from apa_mmdet.datasets.frequency_groups import LVIS_BOUNDS


class Tail(NamedTuple):
    """The shape of a tail: classes with a training instance, rare ones among them, and annotated images."""

    classes: int
    rare: int
    images: int


class LossRule(NamedTuple):
    """A classification loss: when it is taken and why, and the configs that have it.

    ``bases`` are those of ``gpu masks``, ``gpu boxes`` and ``cpu``, which has masks, to be taken out.
    """

    loss: str
    fits: Callable[[Tail], bool]
    because: str
    bases: dict[str, str]
    calibrated: bool = False  # scores, by FRACAL


SOFTMAX = {
    'gpu masks': 'apa_mmdet::coco/mask_rcnn_se_r50_apa_1x_coco.py',
    'gpu boxes': 'apa_mmdet::coco/faster_rcnn_se_r50_apa_1x_coco.py',
    'cpu': 'apa_mmdet::tiny_lvis/mask_rcnn_se_r18_apa_softmax.py',
}
SEESAW = {
    **dict.fromkeys(('gpu masks', 'gpu boxes'), 'apa_mmdet::lvis/mask_rcnn_se_r50_apa_seesaw.py'),
    'cpu': 'apa_mmdet::tiny_lvis/mask_rcnn_se_r18_apa_seesaw.py',
}
GOL = {
    **dict.fromkeys(('gpu masks', 'gpu boxes'), 'apa_mmdet::lvis/mask_rcnn_se_r50_apa.py'),
    'cpu': 'apa_mmdet::tiny_lvis/mask_rcnn_se_r18_apa.py',
}
WRAPPED_CAUCHY = {
    'gpu masks': 'apa_mmdet::v3det/mask_rcnn_se_r50_apa_v3det.py',
    'gpu boxes': 'apa_mmdet::v3det/faster_rcnn_se_r50_apa_v3det.py',
    'cpu': SOFTMAX['cpu'],
}
MANY_CLASSES = 5000  # V3Det has 13,204; a mask for each class and RoI would take gigabytes
MANY_IMAGES = 20_000  # between the 4,000 of small LVIS, where DropLoss costs rare classes their AP, and LVIS's 100,000
# the first that fits
LOSSES = (
    LossRule(
        'softmax cross entropy', lambda tail: not tail.rare, 'as the COCO configs, where no class is rare', SOFTMAX
    ),
    LossRule(
        'softmax cross entropy',
        lambda tail: tail.rare < 0.1 * tail.classes and tail.classes < MANY_CLASSES,
        'as the COCO configs: less than a tenth of the classes is rare',
        SOFTMAX,
    ),
    LossRule(
        'Seesaw',
        lambda tail: tail.images < MANY_IMAGES and tail.classes < MANY_CLASSES,
        'best on 4,000 images of 360 classes, and on 800 of 48, a third of them rare (docs/choosing.md)',
        SEESAW,
        calibrated=True,
    ),
    LossRule(
        'GOL (Gumbel link, DropLoss)',
        lambda tail: tail.classes < MANY_CLASSES,
        'as the LVIS configs, for tens of thousands of images and a tenth of the classes rare, or more',
        GOL,
    ),
    LossRule(
        'softmax cross entropy over a wrapped Cauchy classifier',
        lambda tail: True,
        'as the V3Det configs, for thousands of classes',
        WRAPPED_CAUCHY,
    ),
)
DRAWN_SCORE = 0.2  # of Seesaw: about as many detections have it with FRACAL as 0.3 without it (docs/calibration.md)
RARE_IMAGES = LVIS_BOUNDS[0]  # at most, and
RARE_RATIO = 10  # times fewer than the most frequent class: in a set of ten images no class is rare for that
# oversample_thr of ClassBalancedDataset and frequency_threshold of DropLoss: LVIS's, or the images of tiny LVIS's 800
OVERSAMPLED_SHARE, OVERSAMPLED_IMAGES = 0.001, 24
DROPPED_SHARE, DROPPED_IMAGES = 0.0011, RARE_IMAGES

# training images, at least → epochs from pretrained weights
EPOCHS = ((50_000, 12), (10_000, 24), (2_000, 36), (500, 72), (0, 100))
TAIL_EPOCHS = 24  # at least, with a tail: LVIS's 2x
RANDOM_FACTOR, DETECTOR_FACTOR = 2, 0.5  # from random weights; from those of a detector, at a tenth of the rate
DETECTOR_LR_FACTOR = 0.1
CPU_SEEN, CPU_EPOCHS = 5_000, (5, 40)  # images in all, as in the demo's quarter of an hour, within these epochs
VALIDATIONS = 12  # at most
VALIDATED_SHARE = 0.2  # images validated for one trained on, at most
WARM_UP = 500  # iterations, at most a tenth of all

STEP_IMAGES = dict(gpu=16, cpu=8)  # of the recipes
LEAST_STEPS = 6  # in an epoch
# GiB of a training step. mask_rcnn_se_r50_apa with two images of 800x1333 and 1,203 classes took 4.8 in all on an H200
# (benchmarks/results/step_cuda.csv), with few objects; these numbers, 7.1, leave room for many.
FIXED_GIB, ROI_GIB, PIXEL_GIB = 1.5, 0.4, 1.5  # weights and optimizer; of each image, RoIs and LARGE_PIXELS
RANDOM_PIXELS = 1.8  # times as much where stem, stage 1 and norms are trained (benchmarks/results/README.md)
CLASS_GIB = 2 * 128 * 28 * 28 * 4 / 2**30  # logits and gradient of the masks of a class, for 128 RoIs of an image
USED_SHARE = 0.8  # of a GPU
LARGE_PIXELS = 800 * 1333

# of a test: twice as many detections as objects are kept, of as many proposals for each as in the LVIS recipes
PROPOSALS, PROPOSALS_OF_DETECTION = 1000, 3
MOST_DETECTIONS, LEAST_BOUND = 3000, 300  # kept of an image; whatever the size of the masks, LVIS's
MASKS_SHARE = 0.25  # of a GPU, of the masks of an image's detections in a test; they take as much of the host
COUNTED = 1000  # detections of an image and class, the third of CocoMetric's proposal_nums
TOPK = 10_000  # of fixed AP, as published
# to assign an anchor to an object, bytes for each pair; 36.04 are measured in mmdet 3.3's bbox_overlaps
ASSIGN_BYTES, ANCHORS_OF_PIXEL = 36, 3 * sum(1 / stride**2 for stride in (4, 8, 16, 32, 64))
ASSIGN_SHARE = 0.3  # of a GPU; beyond, the CPU assigns: 500 objects at 800x1333 take a core 10 s
FEW_OBJECTS = 100  # for which the numbers of a training step leave room

SMALL_SIDE = 400  # short side of the median image, below which images keep their size
LONG_SIDE = 1333
CPU_SCALE = (400, 300)
SMALL_OBJECT, LARGE_OBJECT = 24, 256  # pixels: below at the 10th, and not above at the 90th percentile → small anchors


def epochs_of(images: int, of_epoch: int, device: str, tail: bool, start: str) -> int:
    """Epochs of a training on ``images``, with repeated ones ``of_epoch``.

    ``start``: from ``random`` weights, those of a ``backbone`` or of a ``detector``.
    """
    if device == 'cpu':
        low, high = CPU_EPOCHS
        return max(low, min(high, round(CPU_SEEN / of_epoch)))
    epochs = next(number for least, number in EPOCHS if images >= least)
    epochs = max(epochs, TAIL_EPOCHS) if tail else epochs
    return round(epochs * dict(random=RANDOM_FACTOR, backbone=1, detector=DETECTOR_FACTOR)[start])


def trained_pixels(short: float) -> float:
    """Of an image on a GPU, at most; ``short`` is the short side of a median one as trained on."""
    return min(LARGE_PIXELS, short * short * LONG_SIDE / 800)


def assign_gib(pixels: float) -> float:
    """GiB that the RPN takes for an object to compare it with all anchors of an image of ``pixels``."""
    return ASSIGN_BYTES * ANCHORS_OF_PIXEL * pixels / 2**30


def most_detections(pixels: float, memory: float, mask_classes: int) -> int:
    """Detections of an image of ``pixels`` that a test can keep in ``memory`` (GiB): a mask has a byte a pixel."""
    if not mask_classes:
        return MOST_DETECTIONS
    of_mask = pixels + 4 * 28 * 28 * mask_classes  # beside its logits
    return max(LEAST_BOUND, min(MOST_DETECTIONS, int(MASKS_SHARE * memory * 2**30 / of_mask)))


def images_per_gpu(images: int, gpus: int, memory: float, pixels: float, mask_classes: int, start: str) -> int:
    """Images of a step on each GPU: the recipes' 16 in all, what fits into ``memory`` (GiB), ``LEAST_STEPS``."""
    of_pixels = PIXEL_GIB * (RANDOM_PIXELS if start == 'random' else 1) * pixels / LARGE_PIXELS
    fitting = (USED_SHARE * memory - FIXED_GIB) / (ROI_GIB + of_pixels + CLASS_GIB * mask_classes)
    return int(max(1, min(STEP_IMAGES['gpu'] // gpus, fitting, images // (LEAST_STEPS * gpus))))
