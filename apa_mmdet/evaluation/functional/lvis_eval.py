"""LVIS's average precision, a category at a time: faster-coco-eval matches and counts, lvis sums up.

Where faster-coco-eval differs from lvis 0.5.3, its input is changed so that they agree:

- lvis drops detections and annotations without area; faster-coco-eval counts them;
- lvis ignores what is marked ``ignore`` and knows no crowds; faster-coco-eval ignores crowds, and measures their
  overlap otherwise;
- lvis takes a match with annotation 0 for none: here annotations are renumbered from 1.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from lvis import LVIS, LVISEval
from lvis.eval import Params
from mmengine.logging import MMLogger
from tqdm import tqdm

from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.datasets.annotations.segmentations import plain
from apa_mmdet.datasets.annotations.selection import select_categories
from apa_mmdet.datasets.validation.annotations import check_ground_truth, check_images_and_categories
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.findings import Findings

from .detection_rows import IOU_TYPES
from .lvis_detections import MAX_PER_IMAGE, LVISDetections
from .prediction_store import as_xywh


class GroundTruth(LVIS):
    """lvis's index of a validated annotation file; annotations without area, which lvis skips, are counted in the log.

    Annotations have only the fields that are evaluated, and a ``segmentation`` only with ``masks``, which
    :func:`~apa_mmdet.datasets.annotations.segmentations.plain` decodes.

    Args:
        path: the file.
        masks: whether masks are to be compared; only then each annotation needs one.
        evaluated: whether it is evaluated with. Otherwise only its images and categories are read, which are all that a
            file of test images has.
        classes: names of the classes that are evaluated, in order of the labels; all of the file without them.

    Raises:
        ValidationError: at the first fault; it names the file, the records and the key.
    """

    def __init__(
        self, path: str, masks: bool = True, evaluated: bool = True, classes: Sequence[str] | None = None
    ) -> None:
        self.path, self._masks, self._evaluated, self._classes = path, masks, evaluated, classes
        super().__init__(path)

    def _load_json(self, path: str) -> dict:
        content, findings = read_annotations(path), Findings(path, strict=True)
        annotations: list[dict] = []
        if self._evaluated:
            annotations = list(check_ground_truth(content, findings, self._masks).records(self._masks))
        else:
            check_images_and_categories(content, findings)
        return dict(content, annotations=annotations)

    def _create_index(self) -> None:
        if self._classes is not None:
            self.dataset = only_classes(self.dataset, self._classes, self.path)
        for image in self.dataset['images']:
            for key in ('height', 'width'):
                image[key] = int(image[key])  # 64.0: pycocotools takes it, faster-coco-eval does not
        super()._create_index()
        empty = sum(annotation['area'] <= 0 for annotation in self.dataset['annotations'])
        if empty:
            MMLogger.get_current_instance().warning(
                f'{self.path}: {empty} of {len(self.anns)} annotations have no area and are skipped in AP, as in lvis'
            )


def only_classes(content: dict, classes: Sequence[str], path: str) -> dict:
    """An annotation file as if it had only these classes, in this order; all of its images stay.

    Raises:
        ValidationError: as of :func:`select_categories`.
    """
    categories = select_categories(classes, content['categories'], path)
    kept = {category['id'] for category in categories}
    lists = 'neg_category_ids', 'not_exhaustive_category_ids'
    images = [
        dict(image, **{key: [number for number in image[key] if number in kept] for key in lists if key in image})
        for image in content['images']
    ]
    annotations = [annotation for annotation in content['annotations'] if annotation['category_id'] in kept]
    return dict(content, categories=categories, images=images, annotations=annotations)


class FastLVISEval(LVISEval):
    """lvis's ``LVISEval`` on collected detections: ``run()``, then ``get_results()`` and ``eval``, as there.

    Args:
        detections: those of a whole test.
        iou_type: 'bbox' or 'segm'.

    Raises:
        ValueError: on evaluation, naming the annotation file, if faster-coco-eval cannot evaluate a category.
    """

    def __init__(self, detections: LVISDetections, iou_type: str) -> None:
        self.lvis_gt, self.detections = detections.ground_truth, detections
        self.params = Params(iou_type)
        self.params.img_ids, self.params.cat_ids = detections.image_ids, detections.category_ids
        self.params.max_dets = -1 if detections.topk else MAX_PER_IMAGE  # get_results() names recall after it
        self.results, self.eval = {}, {}

    def evaluate(self) -> None:
        self.freq_groups = self._prepare_freq_group()
        annotations = {number: [] for number in self.params.cat_ids}
        for annotation in self.lvis_gt.dataset['annotations']:
            if annotation['area'] > 0:
                annotations[annotation['category_id']].append(annotation)
        if self.params.iou_type == 'segm':
            self.detections.report_mask_sizes()
        counts = len(self.params.cat_ids), len(self.params.area_rng)
        precision = -np.ones((len(self.params.iou_thrs), len(self.params.rec_thrs), *counts))
        recall = -np.ones((len(self.params.iou_thrs), *counts))
        rows_of = self.detections.by_category(self.params.iou_type)
        # disable=None: no bar in a log
        bar = tqdm(annotations.values(), self.params.iou_type, unit=' categories', disable=None, delay=1)
        with self.detections.predictions.open_masks() as read_mask:
            for i, of_category in enumerate(bar):
                if of_category:  # without annotations, lvis gives -1
                    found = self._evaluate_category(of_category, list(self._as_coco(rows_of[i], read_mask)))
                    precision[:, :, i], recall[:, i] = found['precision'][:, :, 0, :, -1], found['recall'][:, 0, :, -1]
        self.eval = dict(params=self.params, precision=precision, recall=recall)

    def accumulate(self) -> None:
        """Done by ``evaluate``, for each category."""

    def _evaluate_category(self, annotations: Sequence[dict], detections: list[dict]) -> dict:
        """Precision (thresholds, recalls, 1, areas, 1) and recall (thresholds, 1, areas, 1)."""
        number = annotations[0]['category_id']
        image_of, numbered = self.detections.image_of, enumerate(annotations, 1)
        annotations = [dict(a, id=i, image_id=image_of[a['image_id']], iscrowd=0) for i, a in numbered]
        for annotation in annotations if self.params.iou_type == 'segm' else ():
            annotation['segmentation'] = plain(annotation['segmentation'])
        images = sorted({a['image_id'] for a in annotations} | {d['image_id'] for d in detections})
        images = [dict(self.lvis_gt.imgs[self.params.img_ids[i]], id=i) for i in images]
        from .category_eval import CategoryEval

        truth = dict(images=images, categories=[self.lvis_gt.cats[number]], annotations=annotations)
        try:
            evaluation = CategoryEval(truth, detections, self.params.iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
        except Exception as error:
            raise ValueError(
                f'{self.lvis_gt.path}: category {number} cannot be evaluated by faster-coco-eval: {one_line(error)}'
            ) from error
        return evaluation.eval

    def _as_coco(self, positions: np.ndarray, read_mask: Callable[[int, int, int], bytes]) -> Iterator[dict]:
        rows, iou_type = self.detections.rows[positions], self.params.iou_type
        scores = rows['scores'][:, IOU_TYPES.index(iou_type)].tolist()
        columns = (rows[name].tolist() for name in ('image', 'category', 'file', 'offset', 'length'))
        for box, score, image, category, *mask in zip(as_xywh(rows['box']), scores, *columns):
            if box[2] * box[3] <= 0:
                continue
            detection = dict(image_id=image, category_id=self.params.cat_ids[category], bbox=box, score=score)
            if iou_type == 'segm':
                size = list(self.detections.mask_sizes[image])
                detection['segmentation'] = dict(size=size, counts=read_mask(*mask))
            yield detection
