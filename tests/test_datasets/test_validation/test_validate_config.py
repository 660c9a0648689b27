"""Data sets of a config: how they are found, read and compared with pipelines and evaluators."""

import contextlib
import json

import pytest
from helpers.annotations import TRAIN, VAL, coco_dataset, coco_validation_set, codes, edit, findings_of, first
from mmdet.evaluation import CocoMetric, LVISMetric
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.config import Config
from pycocotools.coco import COCO

from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES
from apa_mmdet.datasets.validation.validate_config import validate_config


class Own(CocoMetric):
    """A metric of the user's."""


class OwnOnTail(LVISMetric):
    """Another one."""


BALANCED = dict(type='ClassBalancedDataset', oversample_thr=1e-3)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_valid_data_set_has_no_findings(broken, workers):
    folder, cfg = broken
    report = validate_config(cfg, workers=workers, progress=False)
    assert report.findings == [] and report.errors == 0
    train, val = (json.loads((folder / f).read_text()) for f in (TRAIN, VAL))
    rare = sum(c['image_count'] <= 10 for c in train['categories'])
    empty = 48 - len({a['category_id'] for a in val['annotations']})
    assert report.rows == [
        ('train', 40, len(train['annotations']), 0, 48, 0, rare),
        ('val, test', 4, len(val['annotations']), 0, 48, empty, 48 - empty),
    ]
    assert str(report).splitlines()[-1] == 'no errors, no warnings: training can start'


def test_wrapped_data_sets_are_found_and_shared_ones_read_once(broken):
    cfg = broken[1]
    train = cfg.train_dataloader.dataset
    other = dict(train.dataset, ann_file=VAL)
    balanced = dict(type='ClassBalancedDataset', oversample_thr=1.0, dataset=other)
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[train, balanced, other])
    )
    report = validate_config(cfg, images=False, progress=False)
    assert [row[0] for row in report.rows] == ['train', 'train, val, test'] and not report.errors


def test_coco_data(tmp_path):
    cfg = coco_dataset(tmp_path / 'd')
    report = validate_config(cfg, progress=False)
    assert report.findings == [] and report.rows == [('train', 2, 2, 0, 2, 0, 2)]
    del cfg.train_dataloader.dataset.data_prefix
    assert codes(findings_of(cfg), 'error') == [('unknown-image-path', ())]


# ---------------------------------------------------------------- files


def test_an_unreadable_annotation_file_is_one_finding(broken):
    folder, cfg = broken
    (folder / TRAIN).write_text('{"images": [')
    assert codes(findings_of(cfg, 'train')) == [('truncated-file', (str(folder / TRAIN),))]
    (folder / TRAIN).unlink()
    (folder / TRAIN).mkdir()
    assert codes(findings_of(cfg, 'train')) == [('unreadable-file', (str(folder / TRAIN),))]


def test_a_missing_annotation_file_is_named_with_what_to_do(broken):
    folder, cfg = broken
    (folder / VAL).unlink()
    (finding,) = findings_of(cfg, 'val', 'test')
    assert codes([finding]) == [('missing-file', (str(folder / VAL),))] and finding.dataset == 'val, test'
    assert finding.message == f'missing: {folder / VAL}; make the data set with: python tools/make_tiny_lvis.py'


@pytest.mark.parametrize('evaluator', [None, dict(type='CocoMetric', format_only=True, outfile_prefix='x')])
@pytest.mark.parametrize('change', [lambda c: c.pop('annotations'), lambda c: c.update(annotations=[])])
def test_a_test_set_needs_no_annotations(tmp_path, evaluator, change):
    cfg = coco_validation_set(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', change)
    assert codes(findings_of(cfg)) == [('nothing-to-evaluate', ('annotations',))]
    cfg.test_dataloader, cfg.test_evaluator = cfg.pop('val_dataloader'), evaluator
    report = validate_config(cfg, progress=False)
    assert report.findings == [] and report.rows == [('test', 2, 0, 0, 2, 2, 0)]


def test_ids_that_are_texts_are_an_error_only_for_a_metric_that_keeps_numbers(tmp_path):
    def change(content):
        for image in content['images']:
            image['id'] = str(image['id'])
        for annotation in content['annotations']:
            annotation['image_id'] = str(annotation['image_id'])

    cfg = coco_validation_set(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', change)
    assert codes(findings_of(cfg)) == []
    cfg.val_evaluator.type = 'FastCocoMetric'
    assert codes(findings_of(cfg)) == [('non-integer-id', ('1', '2'))]


# ---------------------------------------------------------------- pipelines and evaluators


@pytest.mark.parametrize(
    'loader, metric, finding',
    [
        ('LoadAnnotations', 'bbox', 'missing-mask'),
        ('LoadPartialMaskAnnotations', 'bbox', 'partial-masks'),
        ('LoadPartialMaskAnnotations', ['bbox', 'segm'], 'missing-mask'),
        (None, 'bbox', None),
    ],
)
def test_instances_without_masks(tmp_path, loader, metric, finding):
    cfg = coco_dataset(tmp_path / 'd', segmentation=False)
    cfg.val_dataloader = cfg.pop('train_dataloader')
    cfg.val_dataloader.dataset.pipeline = [dict(type=loader, with_mask=True)] if loader else []
    cfg.val_evaluator = dict(type='CocoMetric', metric=metric)
    assert codes(findings_of(cfg)) == [(finding, (1, 2))] * bool(finding)


@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize(
    'head, code',
    [
        ('FCNMaskHead', 'empty-mask-target'),
        ('DeviceAgnosticFCNMaskHead', 'empty-mask-target'),
        ('PartiallyLabeledMaskHead', 'partial-masks'),
        ('BoxInstMaskHead', 'partial-masks'),
        (None, 'partial-masks'),
    ],
)
def test_a_mask_head_that_would_learn_missing_masks_as_empty_is_refused(tmp_path, head, code, heads):
    cfg = coco_dataset(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('annotations', segmentation=None))
    cfg.train_dataloader.dataset.pipeline[1].type = 'LoadPartialMaskAnnotations'
    if head:
        cfg.model.mask_head = dict(type=head) if heads == 1 else [dict(type=head)] * heads
    (finding,) = findings_of(cfg)
    assert codes([finding]) == [(code, (1,))]
    assert code == 'partial-masks' or finding.message.startswith(
        f'instances without a mask, which {head} learns as empty: 1 of 2, e.g. 1; use PartiallyLabeledMaskHead'
    )
    cfg.val_dataloader = cfg.pop('train_dataloader')  # nothing is learned
    assert codes(findings_of(cfg)) == [('partial-masks', (1,))]


@pytest.mark.parametrize('loader', ['LoadAnnotations', 'LoadPartialMaskAnnotations'])
def test_run_lengths_are_an_error_where_training_reads_polygons(tmp_path, loader):
    cfg = coco_dataset(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('annotations', segmentation=dict(size=[40, 50], counts=[41, 9 * 40, 1599])))
    load = cfg.train_dataloader.dataset.pipeline[1]
    load.type = loader
    assert findings_of(cfg) == []
    load.poly2mask = False
    assert codes(findings_of(cfg), 'error') == [('mask-not-a-polygon', (1,))]
    cfg.val_dataloader = cfg.pop('train_dataloader')
    assert findings_of(cfg) == []


def test_a_mask_head_without_masks_to_learn(broken):
    cfg = broken[1]
    cfg.model.roi_head.mask_head.init_cfg = dict(type='Pretrained', checkpoint='BoxInst.pth')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    cfg.train_dataloader.dataset.dataset.pipeline = pipeline
    assert codes(findings_of(cfg, 'train'), 'error') == [('no-mask-loading', ())]
    del cfg.model.roi_head.mask_head
    assert findings_of(cfg, 'train') == []


@pytest.mark.parametrize(
    'filter_cfg, kept',
    [(dict(min_size=65), False), (dict(min_size=64), True), (dict(filter_empty_gt=True, min_size=64), True)],
)
def test_a_filter_that_keeps_no_image(broken, filter_cfg, kept):
    cfg = broken[1]
    cfg.train_dataloader.dataset.dataset.filter_cfg = filter_cfg
    assert codes(findings_of(cfg, 'train')) == [('no-image-kept', ())] * (not kept)


def test_an_evaluator_that_reads_another_file(broken):
    folder, cfg = broken
    cfg.val_evaluator.ann_file = str(folder / TRAIN)
    assert codes(findings_of(cfg)) == [('evaluator-file-mismatch', ('val_evaluator.ann_file',))]
    cfg.val_evaluator.ann_file = str(folder / 'train2017/..' / VAL)
    assert findings_of(cfg) == []


@pytest.mark.parametrize(
    'change, finding',
    [
        (dict(iscrowd=None), ('missing-iscrowd', (1,))),
        (dict(iscrowd='0'), ('missing-iscrowd', (1,))),
        (dict(id='a'), ('invalid-annotation-id', ('a',))),
        (dict(bbox=[1, 1, -9, 9]), ('negative-box', (1,))),
        (dict(bbox=[1, 1, 9, -9]), ('negative-box', (1,))),
        (dict(area=-81), ('negative-area', (1,))),
    ],
)
def test_what_the_coco_metric_needs(tmp_path, change, finding):
    cfg = coco_validation_set(tmp_path / 'd', type=Own)
    edit(tmp_path / 'd/a.json', first('annotations', **change))
    evaluator = cfg.val_evaluator
    for form in (evaluator, [evaluator], dict(metrics=[evaluator])):
        cfg.val_evaluator = form
        assert codes(findings_of(cfg), 'error') == [finding]
    cfg.train_dataloader = cfg.pop('val_dataloader')
    taken_for_a_crowd = change.get('iscrowd') == '0'
    assert bool(codes(findings_of(cfg), 'error')) == taken_for_a_crowd  # training needs none of the rest


@pytest.mark.parametrize('change', [lambda c: c['images'][0].pop('neg_category_ids')])
def test_what_the_lvis_metric_needs(broken, change):
    folder, cfg = broken
    cfg.val_evaluator.type = OwnOnTail
    edit(folder / VAL, change)
    edit(folder / VAL, first('categories', frequency=None))
    assert codes(findings_of(cfg, 'val')) == [('missing-negatives', (1,)), ('missing-frequency', (CATEGORIES[0],))]


@pytest.mark.parametrize(
    'metrics, expected',
    [
        (['FastLVISMetric'], []),
        (['LVISMetric'], [('warning', 'annotation-id-zero', (0,))]),
        (['FastLVISMetric', 'LVISMetric'], [('warning', 'annotation-id-zero', (0,))]),
    ],
)
def test_the_annotation_id_0_matters_unless_only_fast_lvis_metric_reads_it(broken, metrics, expected):
    folder, cfg = broken
    edit(folder / VAL, first('annotations', id=0))
    cfg.val_evaluator = [dict(cfg.val_evaluator, type=metric) for metric in metrics]
    assert [(f.severity, f.code, f.ids) for f in findings_of(cfg, 'val')] == expected


def test_the_annotation_id_0_is_a_warning_for_coco_metric(tmp_path):
    cfg = coco_validation_set(tmp_path / 'd')
    edit(tmp_path / 'd/a.json', first('annotations', id=0))
    (finding,) = findings_of(cfg)
    assert (finding.severity, finding.code, finding.ids) == ('warning', 'annotation-id-zero', (0,))


@pytest.mark.parametrize(
    'segmentation',
    [
        None,
        [],
        [[]],
        [[1, 1, 9, 9]],
        [[1, 1, 9, 1, 9, 9]],
        [[1, 1, 9, 1, 9, 9], []],
        dict(size=[40, 50], counts=[5, 1995]),
    ],
)
def test_the_metric_reads_masks_of_instances_that_training_skips(tmp_path, segmentation):
    cfg = coco_validation_set(tmp_path / 'd', metric=['bbox', 'segm'])
    edit(tmp_path / 'd/a.json', first('annotations', segmentation=segmentation, area=0))
    coco, readable = COCO(tmp_path / 'd/a.json'), True
    try:
        coco.annToRLE(coco.anns[1])
    except Exception:  # pycocotools raises what it likes
        readable = False
    errors = codes(findings_of(cfg), 'error')
    assert errors == [] if readable else errors[0] in [('missing-mask', (1,)), ('mask-first-polygon', (1,))]
    cfg.val_evaluator.metric = 'bbox'
    cfg.val_dataloader.dataset.pipeline = []
    assert codes(findings_of(cfg), 'error') == []


# ---------------------------------------------------------------- configs that cannot be used


@pytest.mark.parametrize(
    'change, code',
    [
        (dict(type='PearDataset'), 'unknown-dataset-type'),
        (dict(type='VOCDataset'), 'not-checked'),
        (dict(colour='red'), 'invalid-dataset'),
        (dict(pipeline=[dict(type='LoadAnnotations', with_ears=True)]), 'invalid-dataset'),
        (dict(ann_file=''), 'no-ann-file'),
        (dict(metainfo=dict(classes='pear')), 'invalid-classes'),
    ],
)
def test_a_data_set_that_cannot_be_built(broken, change, code):
    cfg = broken[1]
    cfg.train_dataloader.dataset = dict(cfg.train_dataloader.dataset.dataset, **change)
    report = validate_config(cfg, ['train'], progress=False)
    (finding,) = report.findings
    assert (finding.code, finding.dataset) == (code, 'train') and '\n' not in finding.message
    verdict = 'nothing was checked' if code == 'not-checked' else 'fix the errors before training'
    assert str(report).endswith(verdict)


@pytest.mark.parametrize(
    'wrap, hidden_from',
    [
        (lambda leaf, both: BALANCED | dict(dataset=both), ['dataset']),
        (lambda leaf, both: both, ['sampler']),
        (
            lambda leaf, both: dict(type='RepeatDataset', times=2, dataset=BALANCED | dict(dataset=both)),
            ['dataset', 'sampler'],
        ),
        (lambda leaf, both: BALANCED | dict(dataset=leaf), []),
    ],
)
def test_a_wrapper_that_hides_the_classes_of_images_from_what_counts_them(tmp_path, wrap, hidden_from):
    cfg = coco_dataset(tmp_path / 'd')
    leaf, sampler = cfg.train_dataloader.dataset, dict(type='ClassAwareSampler')
    dataset = wrap(leaf, dict(type='ConcatDataset', datasets=[leaf, leaf]))
    cfg.train_dataloader = dict(dataset=dataset, sampler=sampler)
    expected = [('uncounted-classes', (f'train_dataloader.{setting}',)) for setting in hidden_from]
    assert codes(findings_of(cfg), 'error') == expected
    with pytest.raises(AttributeError, match='get_cat_ids') if hidden_from else contextlib.nullcontext():
        DATA_SAMPLERS.build(dict(sampler, dataset=DATASETS.build(dataset)))


def test_a_config_without_data_sets():
    (finding,) = findings_of(Config(dict(model=dict())), 'train', 'val')
    assert (finding.code, finding.dataset) == ('no-dataset', 'config')
    assert finding.message == 'no data set in train_dataloader or val_dataloader; add one to the config'


def test_the_report_says_that_something_was_not_checked(broken):
    cfg = broken[1]
    cfg.val_dataloader.dataset = dict(type='VOCDataset')
    report = validate_config(cfg, ['train', 'val'], images=False, progress=False)
    assert str(report).endswith('no errors, 1 warning: training can start, as far as checked')


@pytest.mark.parametrize('change', [dict(train_dataloader='data'), dict(train_dataloader=dict(dataset='coco'))])
def test_a_config_of_another_form(change):
    with pytest.raises(ValueError, match='must be a dict'):
        findings_of(Config(change), 'train')


def test_a_metric_of_one_data_set_asks_nothing_of_another(tmp_path):
    cfg = coco_validation_set(tmp_path / 'a')
    other = coco_validation_set(tmp_path / 'b')
    edit(tmp_path / 'b/a.json', lambda content: [a.pop('iscrowd') for a in content['annotations']])
    datasets = [cfg.val_dataloader.dataset, other.val_dataloader.dataset]
    own = dict(type='VOCMetric')
    cfg.val_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=datasets))
    cfg.val_evaluator = dict(
        type='ConcatDatasetEvaluator', metrics=[[cfg.val_evaluator, own], own], dataset_prefixes='ab'
    )
    assert codes(findings_of(cfg)) == []
    cfg.val_evaluator.metrics[1] = other.val_evaluator
    assert codes(findings_of(cfg)) == [('missing-iscrowd', (1, 2))]
