"""A list of names makes a smaller LVIS of the same files, in training, evaluation and validation."""

import json

import pytest
import torch
from helpers.lvis_samples import draw, result, saved
from helpers.paths import ROOT
from helpers.shrink_config import shrunk
from mmdet.evaluation import LVISMetric
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from apa_mmdet.apis.offline_eval import build_metric
from apa_mmdet.datasets.selective_lvis_dataset import SelectiveLVISV1Dataset
from apa_mmdet.datasets.validation.validate_config import validate_config
from apa_mmdet.evaluation import FastLVISMetric
from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError
from apa_mmdet.models.losses import DropLoss
from apa_mmdet.utils.config import load_config
from apa_mmdet.utils.findings import ValidationError

TINY, V1, V05 = (
    f'configs/{name}.py'
    for name in ('tiny_lvis/mask_rcnn_se_r18_apa', 'lvis/mask_rcnn_r50_gol', 'lvis/mask_rcnn_r50_gol_lvis-v0.5')
)


@pytest.fixture(scope='module', autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.fixture(scope='module')
def folder(tiny_data):
    return tiny_data(train=12, val=5, size=(96, 64))


def classes_of(folder, count):
    """Names of the classes with the most training images, the most frequent first, which is not the file's order."""
    content = json.loads((folder / 'annotations/lvis_v1_train.json').read_text())
    return [c['name'] for c in sorted(content['categories'], key=lambda c: -c['image_count'])][:count], content


def dataset(folder, classes=None, split='train', type='SelectiveLVISV1Dataset', **options):
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))
    file = f'annotations/lvis_v1_{split}.json'
    return DATASETS.build(
        dict(
            type=type,
            data_root=str(folder),
            ann_file=file,
            data_prefix=dict(img=''),
            pipeline=[],
            serialize_data=False,
            **metainfo,
            **options,
        )
    )


def test_only_the_named_classes_are_read_in_the_order_of_the_names(folder):
    names, content = classes_of(folder, 3)
    whole = dataset(folder, tuple(c['name'] for c in content['categories']), type='LVISV1Dataset')
    part = dataset(folder, names)
    file_order = [c['name'] for c in content['categories']]
    for one, all_ in zip(part, whole, strict=True):
        expected = [(i['bbox'], file_order[i['bbox_label']]) for i in all_['instances']]
        expected = [(box, names.index(name)) for box, name in expected if name in names]
        assert [(i['bbox'], i['bbox_label']) for i in one['instances']] == expected
    filtered = dataset(folder, names, filter_cfg=dict(filter_empty_gt=True))
    shown = {i['img_id'] for i in filtered}
    assert shown == {i['img_id'] for i in part if i['instances']} and 0 < len(shown) < len(part)


def test_all_classes_are_mmdets(tiny_data):
    for form, version, names in (('lvis_v1', 'v1', 'V1'), ('lvis_v0.5', 'v0.5', 'V05')):
        root = tiny_data(form, train=4, val=2, size=(96, 64))
        options = dict(data_root=str(root), ann_file=f'annotations/lvis_{version}_train.json', pipeline=[])
        options['serialize_data'] = False
        options['data_prefix'] = dict(img='train2017/' if version == 'v0.5' else '')
        ours, theirs = (DATASETS.build(dict(type=f'{kind}LVIS{names}Dataset', **options)) for kind in ('Selective', ''))
        assert list(ours) == list(theirs) and ours.cat_ids == theirs.cat_ids
        assert ours.metainfo['classes'] == theirs.metainfo['classes']


def test_names_that_the_file_lacks_are_named(folder):
    names, _ = classes_of(folder, 2)
    with pytest.raises(ValidationError, match='lvis_v1_train.json: classes .* lacks: 1 of 3, e.g. unicorn') as error:
        dataset(folder, [*names, 'unicorn'])
    assert error.value.code == 'missing-category' and error.value.ids == ('unicorn',)
    with pytest.raises(ValidationError) as error:
        dataset(folder, [*names, names[0]])
    assert error.value.code == 'duplicate-class'


def test_a_misspelling_of_lvis_is_found_under_mmdets_name(tmp_path):
    category = dict(id=7, name='speaker_(stero_equipment)')
    image = dict(id=1, width=9, height=9, coco_url='http://images.cocodataset.org/a.jpg')
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=[image], annotations=[], categories=[category])))
    classes = dict(classes=['speaker_(stereo_equipment)'])
    found = SelectiveLVISV1Dataset(
        data_root=str(tmp_path), ann_file='a.json', data_prefix=dict(img=''), metainfo=classes, serialize_data=False
    )
    assert found.cat_ids == [7]


# Evaluation


def of_names(content, samples, names):
    """The annotations and predictions as if there were no other classes."""
    numbers = {c['id']: c['name'] for c in content['categories']}
    kept = [number for number, name in numbers.items() if name in names]
    lists = 'neg_category_ids', 'not_exhaustive_category_ids'
    part = dict(
        images=[dict(i, **{key: [n for n in i[key] if n in kept] for key in lists}) for i in content['images']],
        categories=[c for c in content['categories'] if c['id'] in kept],
        annotations=[a for a in content['annotations'] if a['category_id'] in kept],
    )
    in_file, in_names = [], []
    for sample in samples:
        instances = sample['pred_instances']
        labels = [numbers[label + 1] for label in instances['labels'].tolist()]
        chosen = torch.tensor([name in names for name in labels], dtype=torch.bool)
        found = {key: value[chosen] for key, value in instances.items()}
        for where, order in ((in_file, [numbers[n] for n in kept]), (in_names, names)):
            labels_there = torch.tensor([order.index(name) for name in labels if name in names], dtype=torch.long)
            where.append(dict(sample, pred_instances=dict(found, labels=labels_there)))
    return part, in_file, in_names


@pytest.mark.parametrize('seed', range(4))
def test_ap_of_named_classes_is_that_of_a_file_with_them_alone(seed, tmp_path, monkeypatch):
    content, samples = draw(seed, images=12)
    names = ['kind 5', 'kind 2', 'kind 3']  # in another order than the file's
    part, in_file, in_names = of_names(content, samples, names)
    (tmp_path / 'part').mkdir(), (tmp_path / 'whole').mkdir()
    options = dict(metric=['bbox', 'segm', 'proposal'], classwise=True)
    expected = result(LVISMetric, saved(part, tmp_path / 'part'), in_file, **options)
    meta = dict(classes=names, finds_classes_by_name=True)
    monkeypatch.setattr(FastLVISMetric, 'dataset_meta', meta)
    found = result(FastLVISMetric, saved(content, tmp_path / 'whole'), in_names, **options)
    assert found.keys() == expected.keys() and 0 < found['lvis/bbox_AP'] < 1
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6) or (value == -1 and found[key] != found[key]), key


def test_a_metric_names_classes_that_its_file_lacks(tmp_path, monkeypatch):
    content, samples = draw(0)
    monkeypatch.setattr(FastLVISMetric, 'dataset_meta', dict(classes=['kind 9'], finds_classes_by_name=True))
    with pytest.raises(EvaluationError, match='gt.json: classes .* 1 of 1, e.g. kind 9') as error:
        result(FastLVISMetric, saved(content, tmp_path), samples)
    assert error.value.code == 'missing-category'


# Configs


def config(name, root, folder, **options):
    return shrunk(load_config(ROOT / name, options), root, folder)


def codes(cfg, **options):
    return sorted({f.code for f in validate_config(cfg, images=None, progress=False, **options).findings})


def test_a_list_of_names_on_the_command_line_is_a_subset(folder):
    names, content = classes_of(folder, 3)
    cfg = config(TINY, 'data/tiny_lvis/', folder, classes=names)
    assert codes(cfg, splits=['train']) == ['extra-category']
    assert 'class-order' not in codes(cfg) and 'unnamed-category' not in codes(cfg)
    head = cfg.model.roi_head.bbox_head.loss_cls
    loss = DropLoss(3, class_frequency=head.class_frequency, frequency_threshold=0.5, classes=names)
    loss.init_weights()
    counts = {c['name']: c['image_count'] for c in content['categories']}
    assert loss.dropped.tolist() == [counts[name] / 12 < 0.5 for name in names]
    cfg = config(TINY, 'data/tiny_lvis/', folder, classes=[*names, 'unicorn'])
    assert 'missing-category' in codes(cfg) and 'unknown-image-path' not in codes(cfg)


def test_saved_predictions_of_a_subset_are_evaluated_with_its_classes(folder):
    names, content = classes_of(folder, 3)
    metric = build_metric(ROOT / TINY, folder, dict(classes=names, data_root=str(folder)))
    numbers = {c['name']: c['id'] for c in content['categories']}
    assert metric.load_ground_truth().get_cat_ids() == [numbers[name] for name in names]


def test_a_metric_that_numbers_all_categories_is_refused(folder):
    names, _ = classes_of(folder, 3)
    cfg = config(TINY, 'data/tiny_lvis/', folder, classes=names)
    cfg.val_evaluator.type = cfg.test_evaluator.type = 'LVISMetric'
    assert 'unnamed-category' in codes(cfg, splits=['val'])
    whole = config(TINY, 'data/tiny_lvis/', folder)
    reordered = tuple(reversed(whole.val_dataloader.dataset.metainfo.classes))
    whole.val_dataloader.dataset.metainfo = dict(classes=reordered)
    assert 'class-order' not in codes(whole, splits=['val'])
    whole.val_evaluator.type = 'LVISMetric'
    assert 'class-order' in codes(whole, splits=['val'])


def test_lvis_v05_is_read_with_its_frequencies(tiny_data):
    root = tiny_data('lvis_v0.5', train=4, val=2, size=(96, 64))
    cfg = config(V05, 'data/lvis_v0.5/', root)
    found = validate_config(cfg, images=False, progress=False)
    assert found.errors == 0, str(found)
    loss = DropLoss(**{k: v for k, v in cfg.model.roi_head.bbox_head.loss_cls.items() if k != 'type'})
    loss.classes = DATASETS.get('SelectiveLVISV05Dataset').METAINFO['classes']
    loss.init_weights()
    content = json.loads((root / 'annotations/lvis_v0.5_train.json').read_text())
    assert loss.dropped.tolist() == [c['image_count'] / 4 < 0.00177 for c in content['categories']]
