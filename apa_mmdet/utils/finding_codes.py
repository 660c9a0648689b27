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
    'not-utf8': '{path} is not in UTF-8, perhaps in {encoding}; convert it: iconv -f NAME -t UTF-8 OLD > NEW',
    'byte-order-mark': "{path} begins with a byte order mark; remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE",
    'duplicate-key': '{path} gives "{key}" more than once in {record}; remove all but one',
    'not-annotations': '{path} holds a {type}; it should hold images, annotations and categories',
    'missing-records': 'the annotation file has no "{records}"; it should be one of instances in COCO\'s format',
    'not-an-object': 'entries of "{records}" that are not objects; remove them',
    'invalid-field': '{records} whose "{key}" is missing or not {meaning}; correct or remove them; see "Your own data"',
    'duplicate-id': 'ids of {records} used more than once; renumber them',
    'unknown-image': 'annotations of images that are not in the file; remove them',
    'unknown-category': 'annotations of categories that are not in the file; correct them, or add the categories',
    'id-type-mismatch': 'annotations whose "{key}" is a text instead of a number, or the other way; use numbers',
    'invalid-flag': 'annotations whose "{key}" is neither 0 nor 1; training would take it for 1 and skip them',
    'image-too-large': 'images of more than {pixels:,} pixels; no reader opens them: correct the size',
    'boxes-misread': 'boxes out of their image, more than {share:.0%}; perhaps [x1, y1, x2, y2], or of another scale',
    'missing-mask': 'instances without a mask; use LoadPartialMaskAnnotations with PartiallyLabeledMaskHead, or '
    "metric='bbox', or remove them",
    'empty-mask-target': 'instances without a mask, which {head} learns as empty; use PartiallyLabeledMaskHead',
    'invalid-mask': 'masks that are not [[x, y, …], …] or {{"size": [height, width], "counts": …}}; correct or remove',
    'masks-misread': 'masks that hardly overlap their box, more than {share:.0%}; perhaps of another scale, in shares '
    'of the image, or with x and y swapped',
    'mask-not-a-polygon': 'run-length masks, which training ignores; set poly2mask=True in its LoadAnnotations',
    'mask-out-of-range': 'mask coordinates that are not numbers or far from any image; correct: reading crashes',
    'mask-outline-too-long': 'masks with outlines above 10 million pixels; correct: reading takes GiBs',
    'mask-size': 'masks of another size than their image; "size" must be [height, width]',
    'mask-runs': 'masks that do not fill their image; the runs of "counts" must add up to height times width',
    'mask-first-polygon': 'masks whose first polygon has fewer than 3 points; remove: evaluators cannot read them',
    'invalid-annotation-id': 'ids of annotations that are not {meaning}; renumber them from 1',
    'negative-box': 'boxes of negative width or height; correct or remove: metrics misjudge them',
    'negative-area': 'annotations with a negative "area"; correct or remove: metrics misjudge them',
    'missing-iscrowd': 'annotations whose "iscrowd" is missing or neither 0 nor 1; add it, CocoMetric needs it',
    'non-integer-id': 'ids of {records} that are not whole numbers of 64 bits; renumber them for the metric',
    'missing-negatives': 'images without "{key}"; LVIS\'s metric needs it; CocoMetric does without',
    'missing-frequency': 'categories without "frequency" (r, c or f); LVIS\'s metric needs it; CocoMetric does without',
    'unknown-negative': 'images whose "{key}" names no category; LVIS\'s metric would misjudge that class',
    'backslash-path': 'images with backslashes in their paths, the separators of Windows; write / in "file_name"',
    'missing-image': 'missing images; put them there, or correct data_root and data_prefix{hint}',
    'unreadable-image': 'images that cannot be read; download them again, or skip them with ignore_empty=True in '
    'LoadImageFromFile, in training only',
    'image-size-mismatch': 'images of another size than annotated; correct "width" and "height", or the images',
    'orientation-applied': 'images that are turned by their orientation tag, but annotated as stored; set '
    "color_type='color_ignore_orientation' in LoadImageFromFile",
    'orientation-ignored': 'images that are annotated as their orientation tag turns them, but loaded as stored; '
    'mogrify -auto-orient turns them',
    'nearly-black-images': 'images of more than 8 bits, of which loading leaves values up to {top} of 255; scale them '
    'to 8 bits before training',
    'image-reader-died': 'a process that reads images died after {done} of {total}; --workers 0 shows where',
    'invalid-image-path': 'images whose "file_name" or "coco_url" is not a text; correct it',
    'unknown-image-path': '{dataset} cannot tell where its images are: {reason}; correct data_prefix, or the file',
    'missing-category': 'classes of the config that the annotation file lacks; it has {names}; {give}',
    'unnamed-category': "categories that the config's classes lack; its data set or metric numbers all of them: {give}",
    'class-order': "classes in another order than the file's categories, {ours} for {theirs}; use the file's order",
    'duplicate-class': 'classes of the config named more than once; give each its own',
    'duplicate-category': 'names of categories used more than once; give each its own',
    'no-training-instance': 'no training instances left: all skipped, as without "area", crowds, or of other classes; '
    'boxes are in pixels',
    'no-dataset': 'no data set in {loaders}; add one to the config',
    'unknown-dataset-type': 'no data set class {type} is registered; correct it, or import it with custom_imports',
    'unknown-type': '{setting}: no {kind} {type} is registered{known}; correct it, or import it with custom_imports',
    'invalid-arguments': '{setting}: arguments of {type}: {reason}; correct them',
    'invalid-dataset': 'the data set or its pipeline cannot be built ({reason}); correct the config',
    'uncounted-classes': '{setting}: {owner} counts the classes of images, which {type} does not give; put {type} '
    'outside of it, or remove it',
    'invalid-classes': 'the classes are {classes!r}; give metainfo=dict(classes=(…, )), a comma after a single one',
    'no-ann-file': 'the data set has no ann_file; name its annotation file',
    'evaluator-file-mismatch': '{setting} is {path}, but the data set reads {ann_file}; make them the same',
    'no-mask-loading': 'the model has a mask_head, but training loads no masks; set with_mask=True in LoadAnnotations',
    'no-image-kept': 'filter_cfg={rule} keeps none of {total} images; loosen it',
    'num-classes-mismatch': '{setting} is {count}, but {dataset} has {number} classes; make them the same',
    'class-count-mismatch': 'the data sets differ in their number of classes: {counts}; give all the same classes',
    'invalid-class-frequency': '{setting}: {reason}; correct the file or the setting',
    'frequency-count-mismatch': '{setting}: {path} has {count} classes, the loss {number}; use the right file',
    'class-without-frequency': '{setting}: classes that {path} lacks; name a file that has them',
    'not-frequencies': '{path} holds a {type}; it should be a list of frequencies or an object',
    'invalid-images-annotated': '{path}: n_images_annotated is {value}; it must be a positive number',
    'invalid-frequency': '{path}: frequency number {index} is {value}; it should be a share of the images, in [0, 1]',
    'not-class-statistics': '{path} is a list of frequencies; calibration needs image counts: see docs/calibration.md',
    'unequal-statistics': '{path} has lists of different lengths: {lengths}; give a value for each class',
    'missing-checkpoint': '{setting} is {path}, which is not a file; correct the path, or put the checkpoint there',
    'missing-latest': '{folder}/last_checkpoint names {path}, which is neither there nor in its folder; copy it there',
    'missing-pretrained': '{setting} is {path}, which is not a file; put the weights there, name others with '
    '--cfg-options {setting}=…, or train from random weights, see docs/faq.md',
    'nothing-to-evaluate': 'no "annotations" to evaluate; set format_only=True and outfile_prefix in its evaluator',
    'streamed-metric': '{setting} takes results apart that a metric here keeps on disk; use ConcatDatasetEvaluator',
    'metrics-per-dataset': '{setting} has metrics of {metrics} data sets, {loader} has {count}; give each metrics',
    'shuffled-evaluation': '{loader} shuffles, but order tells its data sets apart; set sampler.shuffle=False',
    'metric-of-one-dataset': '{setting}: {path} is only one of {count} data sets; use ConcatDatasetEvaluator',
    'tta-wrapped-dataset': '--tta cannot set the pipeline of a {type}; test its data sets one by one',
    'tta-without-masks': '{type} cannot merge the masks of this model; set tta_model.type=InstanceTTAModel',
    'short-palette': 'DetLocalVisualizer has {colors} colors, {classes} classes; set visualizer.type=LegibleVisualizer',
    'spent-variable': '{setting}={value} comes after the config has read this variable; set {settings}',
    'misspelled-setting': 'nothing reads {setting}; perhaps {meant} is meant',
    'unknown-metric-key': '{setting} is {key}, which the validation does not give; it gives {keys}',
    'wrong-rule': '{setting} is {rule}, but of {key} more is better; set {setting}=greater',
    'large-min-delta': '{setting} is 0.1, more than {key} gains between validations; set {setting}=0.001',
    'loss-in-wrong-head': '{setting}: {loss} cannot train {head}; it works only as {place}: use another loss',
    'bfloat16-operators': '{setting} is AmpOptimWrapper in bfloat16, which {operators} of mmcv does not take on a GPU; '
    'set {setting}.type=MixedPrecisionOptimWrapper',
    'invalid-list-line': '{path}, line {line} is {text}; it should be a path, a space and the number of the class',
    'label-outside-list': '{path}, line {line} has the label {label}; the last class is {last}: correct it',
    'label-outside-classes': 'labels that are no class, from 0 to {last}; correct them, or num_classes of the head',
    'several-labels': 'images that are listed with several labels; keep one',
    'no-labeled-image': 'no image with a label; correct ann_file, data_prefix or data_root',
    'no-labels': '{type} gives no labels; set with_label=True',
    'folder-count': '{path} has {folders} folders, but there are {classes} classes; correct data_root and data_prefix',
    'unusable-class-counts': '{setting}: {reason}; name the training list, or give a number for each class',
    'no-class-frequency': '{setting}: DropLoss cannot train without class_frequency; give a list or an annotation file',
}
WARNINGS = {
    'image-without-annotations': 'images without annotations; skipped with filter_empty_gt=True, otherwise background',
    'box-outside-image': 'boxes that reach out of their image; they are [x, y, width, height] in pixels',
    'empty-box': 'boxes without area; width, height or "area" is 0 or less; a few are normal',
    'skipped-instance': 'instances that mmdet skips; ignored, without area, thinner than a pixel or out of the image',
    'many-crowds': 'annotations with "iscrowd": 1; training and COCO metrics ignore them: single objects need 0',
    'partial-masks': 'instances without a mask; only their boxes are learned',
    'mask-outside-box': 'masks that hardly overlap their box; nearly nothing of them is learned: correct or remove',
    'mask-polygon': 'polygons that are empty, shorter than 3 points or of odd length; these are skipped',
    'annotation-id-zero': 'annotations with the id 0; number them from 1: the metric takes 0 for "no match"',
    'orientation-tag': 'images that loading turns or mirrors by their orientation tag, which their size does not show; '
    'check with tools/browse_dataset.py that boxes are on the objects',
    'high-bit-depth': 'images of more than 8 bits, of which loading leaves 8; the lower bits are lost: scale the range '
    'in use to 0 to 255',
    'image-outside-folder': 'images outside the data set; their paths lead out of {folder}, and training opens them',
    'extra-category': "categories that the config's classes lack; their instances, if there are any, are skipped",
    'shared-category-name': 'names of categories used more than once; labels are right, results mix them up',
    'repeated-image': 'images that are listed more than once; they count as often',
    'trained-and-evaluated': 'images of {split} that are trained on as well; its figures will be too high',
    'class-without-instance': 'classes without a training instance; they will not be learned',
    'softmax-scores': '{setting}: a BBoxHead scores EQLV2Loss by a softmax; use BBoxHeadEQLV2Loss',
    'unread-option': 'nothing that is known reads {setting}; name a setting of the config in full',
    'unchecked-metric-key': '{setting} is {key}, but {metric} does not list what it gives; compare it with a log',
    'no-validation': '{setting} has no effect without validation; set val_evaluator, val_dataloader and val_cfg',
    'unread-variable': '{setting}={value} comes after the config has read this variable; perhaps set {settings}',
    'new-setting': '{setting} is new to the config; perhaps {alike} is meant',
    'pooled-padding': '{loaders}: attention pools over the padding of unequal images; '
    'set model.data_preprocessor.type=PaddingAwareDetDataPreprocessor, or batch_size=1',
    'not-checked': "not checked: {type} reads neither COCO's format nor labeled images; nothing is known about it",
    'tta-max-per-img': 'tta_model keeps {limit} detections of an image, the model {kept}; '
    'set tta_model.type=InstanceTTAModel, and remove tta_cfg.max_per_img',
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
