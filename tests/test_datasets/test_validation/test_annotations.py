"""Each test breaks valid annotations in one way."""

import json

import pytest
from helpers.annotations import VAL, codes, edit, first, repeat_last
from mmdet.datasets import LVISV1Dataset
from mmdet.datasets.transforms import LoadAnnotations

from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES
from apa_mmdet.datasets.validation.annotations import check_annotations, check_ground_truth
from apa_mmdet.datasets.validation.config_datasets import AnnotationUsage
from apa_mmdet.evaluation.functional.lvis_eval import GroundTruth
from apa_mmdet.utils.finding_codes import ERROR, WARNING
from apa_mmdet.utils.findings import Findings, ValidationError

TRAINING = AnnotationUsage('required')
LVIS = AnnotationUsage('required', evaluated=True, evaluated_as_lvis=True, evaluates_masks=True)


def findings_about(content, usage=TRAINING):
    findings = Findings('train')
    check_annotations(content, findings, None, usage)
    return findings


def mask(segmentation):
    return first('annotations', segmentation=segmentation)


MILLION_POINTS = [1, 1, 2, 1, 2, 2] * 333_333  # not far from each other
ERRORS = [
    (lambda c: c.pop('annotations'), 'missing-records', ('annotations',)),
    (lambda c: c.update(images=[]), 'missing-records', ('images',)),
    (lambda c: c.update(categories=None), 'missing-records', ('categories',)),
    (lambda c: c['images'].append(7), 'not-an-object', ('number 40',)),
    (lambda c: c['annotations'].insert(0, None), 'not-an-object', ('number 0',)),
    (repeat_last('images'), 'duplicate-id', (40,)),
    (repeat_last('categories'), 'duplicate-id', (48,)),
    *(
        (first('annotations', **{key: value}), 'invalid-field', (1,))
        for key, values in dict(
            image_id=[None, True],
            category_id=[True, [1]],
            area=[None, True, '5', 10**400, float('nan'), float('inf')],
            bbox=[
                None,
                [1, 2, 3],
                [True] * 4,
                ['1', '2', '3', '4'],
                [1e308] * 4,
                [1, 2, 3, float('nan')],
                [1, 2, 3, 10**400],
            ],
        ).items()
        for value in values
    ),
    (first('annotations', id=None), 'invalid-field', ('number 0',)),
    (first('annotations', id=True), 'invalid-field', (True,)),
    *((first('images', width=width), 'invalid-field', (1,)) for width in (None, True, 0, 80.5, '80', 10**400)),
    (first('images', height=2**21), 'invalid-field', (1,)),
    (first('categories', name=None), 'invalid-field', (1,)),
    (first('categories', name=' '), 'invalid-field', (1,)),
    (first('annotations', image_id=99), 'unknown-image', (1,)),
    (first('annotations', category_id=0), 'unknown-category', (1,)),
    (first('annotations', iscrowd='0'), 'invalid-flag', (1,)),
    (first('annotations', ignore='false'), 'invalid-flag', (1,)),
    (first('images', width=2**16, height=2**16), 'image-too-large', (1,)),
    *((mask(value), 'missing-mask', (1,)) for value in (None, [], {}, dict(counts=[5]), dict(size=[64, 80]))),
    (mask([1, 1, 9, 1, 9, 9]), 'invalid-mask', (1,)),
    (mask(7), 'invalid-mask', (1,)),
    (mask(dict(size=80, counts=[5])), 'invalid-mask', (1,)),
    *(
        (mask([[1, 1, 9, 1, 9, value]]), 'mask-out-of-range', (1,))
        for value in (float('nan'), None, '5', [5], True, 2e7, 10**400)
    ),
    (mask([[-9e5, 0, 9e5, 0, 0, 9e5] * 3]), 'mask-outline-too-long', (1,)),
    *(
        (mask(dict(size=[64, 80], counts=counts)), 'mask-runs', (1,))
        for counts in (
            [],
            [5],
            [-1, 5121],
            [5120.0],
            ['5120'],
            [None],
            [True, 5119],
            '0',
            'x',
            'é',
            'PPPPPPPPPPP0',
            'Q5',
        )
    ),
    (mask(dict(size=[80, 64], counts=[80 * 64])), 'mask-size', (1,)),
    (mask(dict(size=[64.0, 80.0], counts=[5120])), 'mask-size', (1,)),
]


@pytest.mark.parametrize('change, code, ids', ERRORS)
def test_a_fault_is_an_error_and_the_strict_mode_raises_it(train, change, code, ids):
    change(train)
    assert codes(findings_about(train), ERROR)[:1] == [(code, ids)]  # others may follow from it
    with pytest.raises(ValidationError, match='^a.json: ') as error:
        check_annotations(train, Findings('a.json', strict=True), None, TRAINING)
    assert (error.value.code, error.value.ids) == (code, ids) and '\n' not in str(error.value)


def test_an_annotation_that_occurs_twice(train):
    repeat_last('annotations')(train)
    last = train['annotations'][-1]['id']
    assert codes(findings_about(train), ERROR) == [('duplicate-id', (last,))]


def test_ids_that_are_texts_in_one_place(train):
    for annotation in train['annotations']:
        annotation['image_id'] = str(annotation['image_id'])
    ids = tuple(annotation['id'] for annotation in train['annotations'])
    assert codes(findings_about(train), ERROR) == [('id-type-mismatch', ids)]


def test_many_boxes_outside_their_images_are_an_error(train):
    wrong = train['annotations'][::9]
    for annotation in wrong:
        annotation['bbox'] = [40, 32, 79, 63]
    assert codes(findings_about(train), ERROR) == [('boxes-misread', tuple(a['id'] for a in wrong))]


def test_a_polygon_of_a_million_points_is_valid(train):
    mask([MILLION_POINTS])(train)
    assert codes(findings_about(train), ERROR) == []


@pytest.mark.parametrize(
    'change, warnings',
    [
        (first('annotations', bbox=[70, 60, 12, 6]), ['box-outside-image', 'mask-outside-box']),
        (first('annotations', bbox=[-1.5, 0, 9, 9]), ['box-outside-image', 'mask-outside-box']),
        (first('annotations', bbox=[1, 1, 0, 5]), ['empty-box', 'skipped-instance']),
        (first('annotations', area=0), ['empty-box', 'skipped-instance']),
        (first('annotations', bbox=[1, 1, 0.9, 5]), ['skipped-instance']),
        (first('annotations', bbox=[90, 1, 5, 5]), ['box-outside-image', 'skipped-instance']),
        (first('annotations', ignore=1), ['skipped-instance']),
        (mask([[1, 1, 9, 9]]), ['mask-polygon']),
        (mask([[1, 1, 9, 9, 1, 9, 5]]), ['mask-polygon']),
        (mask([[1, 1, 9, 9, 1, 9], []]), ['mask-polygon', 'mask-outside-box']),
    ],
)
def test_an_oddity_is_a_warning(train, change, warnings):
    change(train)
    findings = findings_about(train)
    assert codes(findings, WARNING) == codes(findings) == [(code, (1,)) for code in warnings]


@pytest.mark.parametrize(
    'box, area',
    [
        ([70, 60, 12, 6], 5),
        ([1, 1, 0, 5], 5),
        ([1, 1, 3, 3], 0),
        ([1, 1, 0.9, 5], 5),
        ([90, 1, 5, 5], 5),
        ([80, 1, 1, 1], 5),
        ([-3, 1, 3, 3], 5),
    ],
)
def test_mmdet_skips_the_instances_that_the_check_reports(train, tmp_path, box, area):
    first('annotations', bbox=box, area=area)(train)
    (tmp_path / 'a.json').write_text(json.dumps(train))
    dataset = LVISV1Dataset(
        ann_file=str(tmp_path / 'a.json'), data_prefix=dict(img=''), pipeline=[], metainfo=dict(classes=CATEGORIES)
    )
    kept = sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    reported = sum(len(f.ids) for f in findings_about(train) if f.code == 'skipped-instance')
    assert len(train['annotations']) - kept == reported


@pytest.mark.parametrize('segmentation', [[[]], [[1, 1, 9, 9]], [[1, 1, 9, 9, 1, 9, 5], [2, 3]]])
def test_mmdet_ignores_an_instance_without_a_polygon_and_so_do_the_counts(train, segmentation):
    name = next(c['name'] for c in train['categories'] if c['id'] == train['annotations'][0]['category_id'])
    before = check_annotations(train, Findings('train'), None, TRAINING).counts
    mask(segmentation)(train)
    load = LoadAnnotations(with_bbox=True, with_mask=True)
    instance = dict(bbox=[1, 1, 9, 9], bbox_label=0, ignore_flag=0, mask=segmentation)
    assert load(dict(ori_shape=(64, 80), instances=[instance]))['gt_ignore_flags'].tolist() == [True]
    for usage, ignored in ((TRAINING, 1), (AnnotationUsage('optional'), 0)):  # LoadPartialMaskAnnotations keeps the box
        after = check_annotations(train, Findings('train'), None, usage).counts
        assert after == {**before, name: before[name] - ignored}


def test_run_lengths_that_training_ignores_are_an_error_but_for_crowds(train):
    for a in train['annotations'][:3]:
        a['bbox'], a['segmentation'] = [20, 0, 40, 64], dict(size=[64, 80], counts=[20 * 64, 40 * 64, 20 * 64])
    train['annotations'][1]['iscrowd'] = 1
    load = LoadAnnotations(with_bbox=True, with_mask=True, poly2mask=False)
    instance = dict(bbox=[1, 1, 9, 9], bbox_label=0, ignore_flag=0, mask=train['annotations'][0]['segmentation'])
    assert load(dict(ori_shape=(64, 80), instances=[instance]))['gt_ignore_flags'].tolist() == [True]
    learned = []
    for polygons_only, reported in ((False, []), (True, [('mask-not-a-polygon', (1, 3))])):
        findings, usage = Findings('train'), AnnotationUsage('required', polygons_only=polygons_only)
        learned.append(sum(check_annotations(train, findings, None, usage).counts.values()))
        assert codes(findings, ERROR) == reported
    assert learned == [len(train['annotations']) - 1, len(train['annotations']) - 3]


@pytest.mark.parametrize(
    'crowds, reported',
    [
        (lambda annotations: annotations[::30], False),  # 3%
        (lambda annotations: annotations[::2], True),
        (lambda annotations: [a for a in annotations if a['category_id'] == annotations[0]['category_id']], True),
    ],
)
def test_crowds_are_counted_and_reported_where_they_are_more_than_in_coco(train, crowds, reported):
    marked = crowds(train['annotations'])
    for annotation in marked:
        annotation['iscrowd'] = 1
    findings = Findings('train')
    content = check_annotations(train, findings, None, TRAINING)
    assert content.crowds == len(marked) and sum(content.counts.values()) == len(train['annotations']) - len(marked)
    assert codes(findings) == [('many-crowds', tuple(a['id'] for a in marked))] * reported
    assert all(f': {len(marked)} of {len(train["annotations"])}, ' in f.message for f in findings)


# ---------------------------------------------------------------- what metrics need


@pytest.mark.parametrize(
    'change, code, ids',
    [
        *(
            (first('images', **{key: [value]}), 'unknown-negative', (1,))
            for key in ('neg_category_ids', 'not_exhaustive_category_ids')
            for value in (9999, '1', [1], True, 1.5)
        ),
        (first('images', neg_category_ids=None), 'missing-negatives', (1,)),
        (first('images', not_exhaustive_category_ids=1), 'missing-negatives', (1,)),
        (first('categories', frequency='x'), 'missing-frequency', (CATEGORIES[0],)),
        (first('annotations', bbox=[9, 9, -5, 5]), 'negative-box', (1,)),
        (mask([[1, 1, 9, 9]]), 'mask-first-polygon', (1,)),
        (mask([[], [1, 2, 3, 4, 5, 6]]), 'mask-first-polygon', (1,)),
        (mask([[1, 1, 2e7, 9, 9, 9]]), 'mask-out-of-range', (1,)),
        (mask([]), 'missing-mask', (1,)),
        (mask(dict(size=[64, 80], counts='x')), 'mask-runs', (1,)),
        (first('annotations', id=2**63), 'invalid-annotation-id', (2**63,)),
        (first('annotations', id='a'), 'invalid-annotation-id', ('a',)),
        (first('annotations', ignore='no'), 'invalid-flag', (1,)),
        (repeat_last('categories'), 'duplicate-id', (48,)),
        (first('annotations', area=float('nan')), 'invalid-field', (1,)),
        (first('annotations', category_id=99), 'unknown-category', (1,)),
        (lambda c: c.pop('annotations'), 'missing-records', ('annotations',)),
    ],
)
def test_the_lvis_metric_refuses_what_the_check_reports(broken, val, change, code, ids):
    change(val)
    findings = Findings('val')
    check_ground_truth(val, findings, masks=True)
    assert codes(findings, ERROR)[:1] == [(code, ids)]
    path = broken[0] / VAL
    edit(path, change)
    with pytest.raises(ValidationError, match=str(path)) as error:
        GroundTruth(str(path))
    assert (error.value.code, error.value.ids) == (code, ids)


@pytest.mark.parametrize('kind, number', [('images', 'x'), ('categories', 2**63)])
def test_the_lvis_metric_needs_ids_of_64_bits(val, kind, number):
    first(kind, id=number)(val)
    findings = Findings('val')
    check_ground_truth(val, findings, masks=False)
    assert ('non-integer-id', (number,)) in codes(findings, ERROR)


@pytest.mark.parametrize(
    'change',
    [
        mask([[1, 1, 9, 1, 9, 9], []]),
        mask([[1, 1, 9, 1, 9, 9, 7], [1, 1]]),
        mask([[1, 1, 9, 1, 9]]),
        first('images', height=64.0),
        first('annotations', area=0),
        first('annotations', id=0),
        first('annotations', id=-5),
        first('annotations', id=2**53),
    ],
)
def test_the_lvis_metric_accepts_what_does_no_harm(broken, change):
    path = broken[0] / VAL
    edit(path, change)
    GroundTruth(str(path))
    assert codes(findings_about(json.loads(path.read_text()), LVIS), ERROR) == []


@pytest.mark.parametrize('number, kept, finding', [
    (0, True, 'annotation-id-zero'),
    (0, False, None),
    (10**15, True, None),
    (2**53, True, 'invalid-annotation-id'),
    (2**53, False, None),
    (-5, True, 'invalid-annotation-id'),
    (-5, False, None),
    ('a', True, 'invalid-annotation-id'),
])  # fmt: skip
def test_ids_of_annotations_matter_to_metrics_that_keep_them(val, number, kept, finding):
    first('annotations', id=number)(val)
    findings = findings_about(val, LVIS._replace(keeps_annotation_ids=kept))
    assert codes(findings) == [(finding, (number,))] * bool(finding)
