"""LVIS's average precision, a category at a time: faster-coco-eval matches and counts, lvis sums up.

What is held of a detection is a row of arrays; its mask stays on disk until its category's turn. Detections of
categories that nobody looked for in their image count for nothing, and are dropped as they are read.

Where faster-coco-eval differs from lvis 0.5.3, it is given what makes them agree:

- lvis drops detections and annotations without area; faster-coco-eval counts them;
- lvis ignores what is marked ``ignore`` and knows no crowds; faster-coco-eval ignores crowds, and measures their
  overlap otherwise;
- lvis takes annotation number 0 for none: here annotations are numbered anew, from 1 on.
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from lvis import LVIS, LVISEval
from lvis.eval import Params
from mmengine.logging import MMLogger
from tqdm import tqdm

from apa_mmdet.datasets.validation.annotations import check_ground_truth
from apa_mmdet.datasets.validation.findings import Findings
from apa_mmdet.datasets.validation.reading import read_annotations
from apa_mmdet.utils.errors import brief

from .prediction_store import Prediction, PredictionFiles

# a detection; image and category are positions among the sorted ids, the file is that of a rank
ROW = np.dtype(
    [
        ('image', 'i4'),
        ('category', 'i4'),
        ('box', 'f4', 4),
        ('score', 'f4'),
        ('file', 'i4'),
        ('offset', 'i8'),
        ('length', 'i8'),
    ]
)


def load_ground_truth(path: str, masks: bool = True) -> 'GroundTruth':
    """Read and validate an LVIS annotation file; annotations without area, which lvis skips, are counted in the log.

    Args:
        path: the file.
        masks: whether masks are to be compared; only then each annotation needs one.

    Raises:
        ValidationError: at the first fault; it names the file, the records and the key.
    """
    ground_truth = GroundTruth(path, masks)
    empty = sum(annotation['area'] <= 0 for annotation in ground_truth.dataset['annotations'])
    if empty:
        MMLogger.get_current_instance().warning(
            f'{path}: {empty} of {len(ground_truth.anns)} annotations have no area and are skipped in AP, as in lvis'
        )
    return ground_truth


class GroundTruth(LVIS):
    """lvis's index of an annotation file that has been validated first, see :func:`load_ground_truth`."""

    def __init__(self, path: str, masks: bool) -> None:
        self.path, self._masks = path, masks
        super().__init__(path)

    def _load_json(self, path: str) -> dict:
        return read_annotations(path)

    def _create_index(self) -> None:
        check_ground_truth(self.dataset, Findings(self.path, strict=True), self._masks)
        for image in self.dataset['images']:
            for key in ('height', 'width'):
                image[key] = int(image[key])  # 64.0: pycocotools takes it, faster-coco-eval does not
        super()._create_index()


class Limits(NamedTuple):
    """How many detections count: the best of each image, or, for fixed AP, the best of each category in all images."""

    per_image: int | None = 300
    per_class: int | None = None


class Detections(NamedTuple):
    """What counts: :data:`ROW`, by category, where each category starts, and the size of the masks of each image."""

    rows: np.ndarray
    starts: np.ndarray
    mask_sizes: dict[int, tuple[int, int] | None]

    def of(self, category: int) -> np.ndarray:
        return self.rows[self.starts[category] : self.starts[category + 1]]


class FastLVISEval(LVISEval):
    """lvis's ``LVISEval`` on predictions from files: ``run()``, then ``get_results()`` and ``eval``, as there.

    Args:
        ground_truth: as :func:`load_ground_truth` gives it; for 'segm', with masks.
        predictions: those of a whole test.
        iou_type: 'bbox' or 'segm'.
        limits: on the number of detections.

    Raises:
        ValueError: on evaluation, if predictions do not belong to the ground truth or lack masks.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        predictions: PredictionFiles,
        iou_type: str,
        limits: Limits = Limits(),  # noqa: B008  a tuple
    ) -> None:
        self.lvis_gt, self.predictions, self.limits = ground_truth, predictions, limits
        self.params = Params(iou_type)
        self.params.img_ids, self.params.cat_ids = sorted(ground_truth.imgs), sorted(ground_truth.cats)
        self.params.max_dets = -1 if limits.per_class else limits.per_image  # what lvis calls it in the keys of recall
        self.results, self.eval = {}, {}
        self._position = {number: i for i, number in enumerate(self.params.img_ids)}
        self.labels = list(ground_truth.cats)  # of label 0, 1, …: as the file has them

    def evaluate(self) -> None:
        self.freq_groups = self._prepare_freq_group()
        annotations = [[] for _ in self.params.cat_ids]
        position = {number: i for i, number in enumerate(self.params.cat_ids)}
        for annotation in self.lvis_gt.dataset['annotations']:
            if annotation['area'] > 0:
                annotations[position[annotation['category_id']]].append(annotation)
        detections = self._read(self._verified(annotations))
        if self.params.iou_type == 'segm':
            self._report_sizes(detections.mask_sizes)
        counts = len(self.params.cat_ids), len(self.params.area_rng)
        precision = -np.ones((len(self.params.iou_thrs), len(self.params.rec_thrs), *counts))
        recall = -np.ones((len(self.params.iou_thrs), *counts))
        bar = tqdm(annotations, self.params.iou_type, unit=' categories', disable=None, delay=1)  # None: not into a log
        with self.predictions.open() as files:
            for i, of_category in enumerate(bar):
                if of_category:  # else there is nothing to be found
                    found = self._evaluate_category(of_category, list(self._dicts(detections, i, files)))
                    precision[:, :, i], recall[:, i] = found['precision'][:, :, 0, :, -1], found['recall'][:, 0, :, -1]
        self.eval = dict(params=self.params, precision=precision, recall=recall)

    def accumulate(self) -> None:
        """Done with the evaluation of each category."""

    # Reading

    def _verified(self, annotations: Sequence[Sequence[dict]]) -> list[np.ndarray]:
        """For each image the categories, as positions, of which it is known whether they are in it."""
        position = {number: i for i, number in enumerate(self.params.cat_ids)}
        known = {
            number: {position[c] for c in image['neg_category_ids']} for number, image in self.lvis_gt.imgs.items()
        }
        for i, of_category in enumerate(annotations):
            for annotation in of_category:
                known[annotation['image_id']].add(i)
        return [np.array(sorted(known[number]), np.int64) for number in self.params.img_ids]

    def _read(self, verified: Sequence[np.ndarray]) -> Detections:
        rows, sizes = [], {}
        category_of = np.searchsorted(self.params.cat_ids, self.labels)
        for prediction in self.predictions:
            if len(prediction.labels):
                self._check(prediction)
                image = self._position[prediction.image_id]
                rows.append(self._rows(prediction, image, category_of[prediction.labels], verified[image]))
                sizes[image] = prediction.masks and prediction.masks.size
        rows = np.concatenate(rows) if rows else np.zeros(0, ROW)
        if self.limits.per_class:
            rows = self._best_of_each_class(rows, verified)
        rows = rows[np.argsort(rows['category'], kind='stable')]
        return Detections(rows, np.searchsorted(rows['category'], np.arange(len(self.labels) + 1)), sizes)

    def _rows(self, prediction: Prediction, image: int, category: np.ndarray, verified: np.ndarray) -> np.ndarray:
        masks = prediction.masks if self.params.iou_type == 'segm' else None
        rows = np.zeros(len(category), ROW)
        rows['image'], rows['category'], rows['box'], rows['file'] = image, category, prediction.boxes, prediction.file
        own = masks and prediction.mask_scores is not None
        rows['score'] = prediction.mask_scores if own else prediction.scores
        if masks:
            rows['offset'], rows['length'] = masks.offsets, masks.lengths
        if self.limits.per_class:  # counted over all images, so nothing is left out yet
            return rows
        if len(rows) > self.limits.per_image:
            rows = rows[np.argsort(-rows['score'], kind='stable')[: self.limits.per_image]]
        return rows[np.isin(rows['category'], verified)]

    def _best_of_each_class(self, rows: np.ndarray, verified: Sequence[np.ndarray]) -> np.ndarray:
        """What fixed AP keeps; only then is left out what counts for nothing."""
        order = np.lexsort((-rows['score'], rows['category']))
        ordered = rows['category'][order]
        place = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
        rows = rows[np.sort(order[place < self.limits.per_class])]
        count = len(self.params.cat_ids)
        known = np.concatenate([image * count + categories for image, categories in enumerate(verified)])
        return rows[np.isin(rows['image'].astype(np.int64) * count + rows['category'], known)]

    def _check(self, prediction: Prediction) -> None:
        if prediction.image_id not in self.lvis_gt.imgs:
            raise ValueError(
                f'image {prediction.image_id} was tested, but is not in the annotations ({self.lvis_gt.path}): does '
                'ann_file belong to the data set that was tested?'
            )
        low, high = prediction.labels.min(), prediction.labels.max()
        if low < 0 or high >= len(self.labels):
            raise ValueError(
                f'image {prediction.image_id}: label {low if low < 0 else high} was predicted, but the '
                f'annotations have {len(self.labels)} categories ({self.lvis_gt.path})'
            )
        if self.params.iou_type == 'segm' and prediction.masks is None:
            raise ValueError(
                f"metric 'segm' compares masks, but the prediction of image {prediction.image_id} has none"
            )

    def _report_sizes(self, mask_sizes: dict[int, tuple[int, int] | None]) -> None:
        """Masks of different sizes have no overlap, for lvis neither; that would lower AP in silence."""
        wrong = []
        for position, size in mask_sizes.items():
            image = self.lvis_gt.imgs[self.params.img_ids[position]]
            if size != (image['height'], image['width']):
                wrong.append(image['id'])
        if wrong:
            MMLogger.get_current_instance().warning(
                f'{self.lvis_gt.path}: {len(wrong)} images, e.g. {wrong[0]}, have another size there than the masks '
                'found in them, which match nothing'
            )

    # A category

    def _evaluate_category(self, annotations: Sequence[dict], found: list[dict]) -> dict:
        """Precision (thresholds, recalls, 1, areas, 1) and recall (thresholds, 1, areas, 1)."""
        number = annotations[0]['category_id']
        annotations = [
            dict(a, id=i, image_id=self._position[a['image_id']], iscrowd=0) for i, a in enumerate(annotations, 1)
        ]
        images = sorted({a['image_id'] for a in annotations} | {d['image_id'] for d in found})
        try:
            ground_truth = COCO(
                dict(
                    images=[dict(self.lvis_gt.imgs[self.params.img_ids[i]], id=i) for i in images],
                    categories=[self.lvis_gt.cats[number]],
                    annotations=annotations,
                )
            )
            evaluation = _CategoryEval(  # an image has few masks of a category: threads would wait
                ground_truth, ground_truth.loadRes(found), self.params.iou_type, lvis_style=True, rle_iou_max_workers=1
            )
            evaluation.params.maxDets = [max(1, len(found))]
            evaluation.evaluate()
            evaluation.accumulate()
        except Exception as error:
            raise ValueError(
                f'{self.lvis_gt.path}: category {number}: faster-coco-eval says {type(error).__name__}: {brief(error)}'
            ) from error
        return evaluation.eval

    def _dicts(self, detections: Detections, category: int, files: Sequence[BinaryIO]) -> Iterator[dict]:
        rows = detections.of(category)
        corners = rows['box'].astype(np.float64)  # differences as the JSON of MMDetection has them
        sides = corners[:, 2:] - corners[:, :2]
        columns = (rows[name].tolist() for name in ('image', 'score', 'file', 'offset', 'length'))
        for image, score, file, offset, length, corner, side in zip(*columns, corners.tolist(), sides.tolist()):
            if side[0] * side[1] <= 0:
                continue
            found = dict(
                image_id=image, category_id=self.params.cat_ids[category], bbox=[*corner[:2], *side], score=score
            )
            if self.params.iou_type == 'segm':
                files[file].seek(offset)
                found['segmentation'] = dict(size=list(detections.mask_sizes[image]), counts=files[file].read(length))
            yield found


class _CategoryEval(COCOeval_faster):
    """Ignores what lvis does; faster-coco-eval's own ignores crowds instead."""

    def _prepare(self) -> None:
        marks = [int(bool(annotation.get('ignore'))) for annotation in self.cocoGt.dataset['annotations']]
        super()._prepare()
        for annotation, mark in zip(self.cocoGt.dataset['annotations'], marks):
            annotation['ignore'] = mark
