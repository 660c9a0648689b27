"""The codes of findings about a data set, with severity and text; docs/dataset_prepare.md lists them."""

from typing import NamedTuple

ERROR, WARNING = 'error', 'warning'
# code: template of what is wrong; what to do
ERRORS = {
    'missing-file': 'missing: {path}; {hint}',
    'unreadable-file': '{path} cannot be read: {reason}; check its path and permissions',
    'empty-file': '{path} is empty; download it again',
    'truncated-file': '{path} is truncated after {length} characters; download it again',
    'packed-file': '{path} is an archive; unpack it',
    'not-json': '{path} is not JSON ({reason}); it should be the unpacked annotation file',
    'not-utf8': '{path} is not in UTF-8; save it in that encoding, or download it again',
    'byte-order-mark': '{path} begins with a byte order mark; save it without one',
    'duplicate-key': '{path} gives "{key}" more than once in {record}; remove all but one',
    'not-annotations': '{path} holds a {type}; it should hold images, annotations and categories',
    'missing-records': 'the annotation file has no "{records}"; it should be one of instances in COCO\'s format',
    'not-an-object': 'entries of "{records}" that are not objects; remove them',
    'invalid-field': '{records} whose "{key}" is missing or not {meaning}; correct or remove them; see "Your own data"',
    'duplicate-id': 'ids of {records} used more than once; renumber them',
    'unknown-image': 'annotations of images that are not in the file; remove them',
    'unknown-category': 'annotations of categories that are not in the file; correct them, or add the categories',
    'id-type-mismatch': 'annotations whose "{key}" is a text where the file has numbers, or the other way; use numbers',
    'invalid-flag': (
        'annotations whose "{key}" is neither 0 nor 1; training takes whatever is not empty for 1, and skips them'
    ),
    'image-too-large': 'images of more than {pixels:,} pixels; no reader opens them: correct the size',
    'boxes-misread': (
        'more than {share:.0%} of the boxes reach out of their image; perhaps [x1, y1, x2, y2] instead of [x, y, '
        'width, height], or of another scale'
    ),
    'missing-mask': (
        'instances without a mask; the pipeline or the evaluator needs one of each; use LoadPartialMaskAnnotations '
        "instead of LoadAnnotations, or metric='bbox', or remove them"
    ),
    'invalid-mask': (
        'masks that are neither polygons [[x, y, …], …] nor {{"size": [height, width], "counts": …}}; correct or '
        'remove them'
    ),
    'mask-out-of-range': (
        'masks with coordinates that are not numbers, or far from any image; correct or remove: reading them crashes'
    ),
    'mask-outline-too-long': (
        'masks with an outline of more than 10 million pixels; correct or remove: reading them takes GiBs'
    ),
    'mask-size': 'masks of another size than their image; "size" must be [height, width]',
    'mask-runs': 'masks that do not fill their image; the runs of "counts" must add up to height times width',
    'mask-first-polygon': (
        'masks whose first polygon is empty or shorter than three points; the evaluator also reads those that '
        "training skips; remove them, or use metric='bbox'"
    ),
    'invalid-annotation-id': 'ids of annotations that are not {meaning}; renumber them from 1',
    'negative-box': (
        'boxes with a negative width or height; correct or remove them: metrics count them as missed, or not at all'
    ),
    'negative-area': (
        'annotations with a negative "area"; correct or remove them: metrics count them as missed, or not at all'
    ),
    'missing-iscrowd': 'annotations whose "iscrowd" is missing or neither 0 nor 1; add it, CocoMetric needs it',
    'non-integer-id': (
        "ids of {records} that are not a whole number of 64 bits; renumber them, LVIS's metric needs that"
    ),
    'missing-negatives': 'images without "{key}"; LVIS\'s metric needs it; use CocoMetric for data without',
    'missing-frequency': (
        'categories without "frequency" (r, c or f); LVIS\'s metric needs it; use CocoMetric for data without'
    ),
    'unknown-negative': (
        'images whose "{key}" names something that is not a category of the file; correct it, or LVIS\'s metric '
        'judges predictions of that class wrongly'
    ),
    'missing-image': 'missing images; put them there, or correct data_root and data_prefix{hint}',
    'unreadable-image': 'images that cannot be read; download them again',
    'image-size-mismatch': (
        "images of another size than annotated; correct the annotations; mogrify -auto-orient applies a photo's "
        'orientation tag'
    ),
    'image-reader-died': 'a process that reads images died after {done} of {total}; --workers 0 shows where',
    'invalid-image-path': 'images whose "file_name" or "coco_url" is not a text; correct it',
    'unknown-image-path': '{dataset} cannot tell where its images are: {reason}; correct data_prefix, or the file',
    'missing-category': 'classes of the config that the annotation file lacks; it has {names}; {give}',
    'unnamed-category': (
        "categories of the annotation file that the config's classes lack; this data set numbers every category of "
        'the file; {give}'
    ),
    'class-order': (
        "the config's classes have another order than the file's categories, from {ours} (config) and {theirs} "
        '(file) on, and predictions would get wrong names; use the order of the file'
    ),
    'duplicate-class': 'classes of the config named more than once; give each its own',
    'duplicate-category': 'names of categories used more than once; give each its own',
    'no-training-instance': (
        'no training instances left: all are skipped, crowds, or of other classes; boxes and areas must be in pixels'
    ),
    'no-dataset': 'no data set in {loaders}; add one to the config',
    'unknown-dataset-type': (
        'no data set class {type} is registered; correct its name, or import its module with custom_imports'
    ),
    'invalid-dataset': 'the data set or its pipeline cannot be built ({reason}); correct the config',
    'invalid-classes': (
        'the classes of the data set are {classes!r}; give metainfo=dict(classes=(…, )), with a comma after a '
        'single one'
    ),
    'no-ann-file': 'the data set has no ann_file; name its annotation file',
    'evaluator-file-mismatch': '{setting} is {path}, but the data set reads {ann_file}; make them the same',
    'no-mask-loading': (
        'the model has a mask_head, but the training pipeline loads no masks; give its LoadAnnotations '
        'with_mask=True, or use a model for boxes'
    ),
    'no-image-kept': 'filter_cfg={rule} keeps none of {total} images; loosen it',
    'num-classes-mismatch': '{setting} is {count}, but {dataset} has {number} classes; make them the same',
    'class-count-mismatch': 'the data sets differ in their number of classes: {counts}; give all the same classes',
    'invalid-class-frequency': '{setting}: {reason}; correct the file or the setting',
    'frequency-count-mismatch': (
        '{setting}: {path} has {count} classes, but the loss has {number}; use the file of this data set'
    ),
    'invalid-image-count': '{setting}: categories whose "image_count" is not a number of images; correct {path}',
    'image-count-too-large': (
        '{setting}: categories whose "image_count" is above the number of annotated images, {annotated}; correct {path}'
    ),
    'not-frequencies': '{path} holds a {type}; it should be a list of frequencies or an object',
    'invalid-images-annotated': '{path}: n_images_annotated is {value}; it must be a positive number',
    'invalid-frequency': (
        '{path}: frequency number {index} is {value}; class frequencies are fractions of the images, in [0, 1]'
    ),
}
WARNINGS = {
    'image-without-annotations': (
        'images without annotations; training skips them with filter_empty_gt=True, and takes them for background '
        'without'
    ),
    'box-outside-image': (
        'boxes that reach more than a pixel out of their image; boxes are [x, y, width, height] in pixels'
    ),
    'empty-box': 'boxes without area; width, height or "area" is 0 or less; a few are normal',
    'skipped-instance': (
        'instances that mmdet skips; marked "ignore", without area, narrower than a pixel or out of their image; a '
        'few are normal'
    ),
    'partial-masks': 'instances without a mask; only their boxes are learned',
    'mask-polygon': (
        'masks with polygons that are empty, shorter than three points or of odd length; such polygons are skipped'
    ),
    'annotation-id-zero': 'annotations with the id 0; number them from 1: the metric takes 0 for "no match"',
    'image-outside-folder': (
        'images outside the folder of the data set; "file_name" or "coco_url" leads out of {folder}; training opens'
        ' them anyway'
    ),
    'extra-category': "categories of the annotation file that the config's classes lack; their instances are skipped",
    'shared-category-name': 'names of categories used more than once; results do not tell them apart; labels are right',
    'class-without-instance': 'classes without a training instance; they will not be learned',
    'not-checked': "not checked: {type} does not read instances in COCO's format; nothing is known about it",
}


class Code(NamedTuple):
    """Severity of a code, and templates: what is wrong, and what to do."""

    severity: str
    fault: str
    advice: str


CODES = {
    code: Code(severity, *text.split('; ', 1))
    for severity, texts in ((ERROR, ERRORS), (WARNING, WARNINGS))
    for code, text in texts.items()
}
