"""Annotation and weight files with one hostile thing in them: each is found and named; ``test_fuzz.py`` draws more of them."""

import copy
import json
import re

import pytest
import torch
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data, read_checkpoint
from apa_mmdet.checkpoint.published_names import translate_names
from apa_mmdet.datasets import class_statistics as class_frequency
from apa_mmdet.datasets import load_class_frequency
from apa_mmdet.datasets.tiny_lvis.generate import CATEGORIES, make_tiny_lvis
from apa_mmdet.datasets.validation import validate_config as check
from apa_mmdet.models.backbones import SEResNet

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile')
    make_tiny_lvis(folder, train=40, val=2, size=(80, 64), progress=False)
    cfg = Config.fromfile(TINY)
    for split in check.SPLITS:
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.get('dataset', dataset).data_root = f'{folder}/'
    cfg.val_evaluator.ann_file = str(folder / 'annotations/lvis_v1_val.json')
    cfg.model.roi_head.bbox_head.loss_cls.class_frequency = str(folder / 'annotations/lvis_v1_train.json')
    return folder, cfg


def found(sound, split, content, images=False):
    """Severity and message of each finding, with ``content``, an object or a text, for the annotations of ``split``."""
    folder, cfg = sound
    path = folder / f'annotations/lvis_v1_{split}.json'
    before = path.read_text()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    try:
        report = check.check_config(cfg, [split], images, progress=False)
    finally:
        path.write_text(before)
    return [(finding.severity, finding.message) for finding in report.findings]


def changed(sound, split, kind, **values):
    content = json.loads((sound[0] / f'annotations/lvis_v1_{split}.json').read_text())
    content[kind][0].update(values)
    return content


BIG = [1, 1, 2, 1, 2, 2] * 333_333  # a polygon of a million points, not far from each other
FIELDS = [
    ('annotations', dict(image_id=True), 'annotations without "image_id" (the id of an image): 1 of '),
    ('annotations', dict(category_id=True), 'annotations without "category_id" (the id of a category): 1 of '),
    ('annotations', dict(id=True), 'annotations without "id" (a number): 1 of '),
    ('annotations', dict(bbox=[True, True, True, True]), 'annotations without "bbox" ([x, y, width, height]): 1 of '),
    ('annotations', dict(bbox=['1', '2', '3', '4']), 'annotations without "bbox" ([x, y, width, height]): 1 of '),
    ('annotations', dict(bbox=[1e308] * 4), 'annotations without "bbox" ([x, y, width, height]): 1 of '),
    ('annotations', dict(area=True), 'annotations without "area" (a number): 1 of '),
    (
        'annotations',
        dict(iscrowd='0'),
        'annotations whose "iscrowd" is neither 0 nor 1: 1 of 170, e.g. 1 (\'0\'); training takes whatever '
        'is not empty for 1, and leaves them out',
    ),
    ('annotations', dict(ignore='false'), 'annotations whose "ignore" is neither 0 nor 1: 1 of '),
    (
        'annotations',
        dict(segmentation=[[True] * 8]),
        'masks with coordinates that are no numbers, or far from any image: 1 of ',
    ),
    (
        'annotations',
        dict(segmentation=dict(size=[64, 80], counts=[True, 5119])),
        'masks that do not fill their image: 1 of ',
    ),
    (
        'annotations',
        dict(segmentation=dict(size=[64.0, 80.0], counts=[5120])),
        'masks of another size than their image: 1 of ',
    ),
    ('images', dict(width=True), 'images without "width" (pixels): 1 of 40, e.g. 1; add it, or remove them'),
    ('images', dict(width=80.5), 'images without "width" (pixels): 1 of 40'),
    ('images', dict(height=10**11), 'images without "height" (pixels): 1 of 40'),
    ('images', dict(coco_url=7), 'images whose "file_name" or "coco_url" is no text: 1 of 40, e.g. 1; correct it'),
    ('images', dict(coco_url='http://elsewhere/1.jpg'), 'images that cannot be read: 1 of 40'),
    ('images', dict(coco_url='http://images.cocodataset.org/a\0b.jpg'), 'missing images: 1 of 40'),
    *(
        (
            'categories',
            dict(image_count=count),
            'model.roi_head.bbox_head.loss_cls.class_frequency: categories whose "image_count" is '
            f'no number of images: 1 of 48, e.g. {CATEGORIES[0]} (',
        )
        for count in ('5', -1, None, True, [1], 10**400, float('nan'))
    ),
]


@pytest.mark.parametrize('kind, values, line', FIELDS)
def test_a_field_that_is_not_what_it_should_be(sound, kind, values, line):
    errors = [
        message
        for severity, message in found(sound, 'train', changed(sound, 'train', kind, **values))
        if severity == 'error'
    ]
    assert any(message.startswith(line) for message in errors), errors


def test_more_images_of_a_class_than_there_are(sound, tmp_path):
    content = changed(sound, 'train', 'categories', image_count=41)
    assert found(sound, 'train', content) == [
        (
            'error',
            'model.roi_head.bbox_head.loss_cls.class_frequency: categories whose "image_count" is above the number of annotated '
            f'images, 40: 1 of 48, e.g. {CATEGORIES[0]} (41); correct {sound[0]}/annotations/lvis_v1_train.json',
        )
    ]
    (tmp_path / 'a.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='number 0 is 1.025'):
        load_class_frequency(tmp_path / 'a.json')
    assert not list(tmp_path.glob('*.class_frequency.json'))


@pytest.mark.parametrize(
    'first, faulty', [(1, False), (10**15, False), (20240101123456789 % 2**53, False), (2**53 - 2, True), (-5, True)]
)
def test_ids_of_annotations_are_any_that_metrics_can_keep(sound, first, faulty):
    content = changed(sound, 'val', 'images')
    for i, annotation in enumerate(content['annotations']):
        annotation['id'] = first + i
    errors = [message for severity, message in found(sound, 'val', content) if severity == 'error']
    assert bool(errors) == faulty and all(
        line.startswith('ids of annotations that are no whole number from 1 to 2^53') for line in errors
    )


@pytest.mark.parametrize(
    'url', ['http://images.cocodataset.org/../../../../../../etc/passwd', 'http://images.cocodataset.org//etc/passwd']
)
def test_paths_that_leave_the_folder(sound, url):
    findings = found(sound, 'train', changed(sound, 'train', 'images', coco_url=url))
    assert findings[0][0] == 'warning'
    assert re.fullmatch(
        rf'images outside the folder of the data set: 1 of 40, e.g. .*/etc/passwd; "file_name" or "coco_url" leads '
        rf'out of {sound[0]}/; training opens them all the same',
        findings[0][1],
    )


def test_a_polygon_of_a_million_points_is_no_error(sound):
    assert not [
        message
        for severity, message in found(sound, 'train', changed(sound, 'train', 'annotations', segmentation=[BIG]))
        if severity == 'error'
    ]


def test_a_very_long_name_is_cut_in_the_finding(sound):
    ((_, message),) = found(
        sound, 'train', changed(sound, 'train', 'images', coco_url='http://images.cocodataset.org/' + 'a' * 5000)
    )
    assert message.startswith('missing images: 1 of 40') and 'aaa…;' in message and len(message) < 500


@pytest.mark.parametrize(
    'old, new, what',
    [
        ('"bbox": [', '"bbox": [0, 0, 1, 1], "bbox": [', 'gives "bbox" more than once in the record with the id 1'),
        ('"info":', '"images": [], "info":', 'gives "images" more than once in a record without id'),
    ],
)
def test_a_key_given_twice(sound, old, new, what):
    text = json.dumps(changed(sound, 'train', 'images')).replace(old, new, 1)
    path = sound[0] / 'annotations/lvis_v1_train.json'
    assert found(sound, 'train', text) == [
        ('error', f'{path} {what}, of which the last would count; take one of them away')
    ]


@pytest.mark.parametrize('field', ['neg_category_ids', 'not_exhaustive_category_ids'])
@pytest.mark.parametrize('value', [9999, '1', [1], True, 1.5])
def test_categories_that_the_lvis_metric_would_pass_over(sound, field, value):
    errors = [
        message
        for severity, message in found(sound, 'val', changed(sound, 'val', 'images', **{field: [value]}))
        if severity == 'error'
    ]
    assert errors == [
        f'images whose "{field}" names something that is no category of the file: 1 of 2, e.g. 1 ({value!r}); correct '
        "it, or LVIS's metric judges predictions of that class wrongly"
    ]


def test_a_file_without_categories_gives_one_finding(sound):
    content = changed(sound, 'train', 'images')
    content['categories'] = None
    assert [message.split(';')[0] for _, message in found(sound, 'train', content)] == [
        'the annotation file has no "categories"'
    ]


@pytest.mark.parametrize(
    'change, line',
    [
        (
            dict(annotations=[3]),
            'an annotation without ids of its category and image: 3; tools/check_dataset.py finds all of them',
        ),
        (
            dict(annotations=[dict(category_id=1)]),
            "an annotation without ids of its category and image: {'category_id': 1}; tools",
        ),
        (
            dict(annotations=[dict(category_id=[1], image_id=1)]),
            'an annotation without ids of its category and image: ',
        ),
        (dict(categories=[dict(id=[1])]), 'the id of a category is no number; tools/check_dataset.py finds it'),
        (dict(categories=['a']), 'a category lacks "id": \'a\''),
        (
            dict(categories=[dict(id=1, image_count='5')]),
            'the "image_count" of the category with the id 1 is \'5\', no number of images',
        ),
        (
            dict(categories=[dict(id=1, image_count=10**400)]),
            'the "image_count" of the category with the id 1 is 1000000',
        ),
        ('[' * 200_000, 'nested too deeply for a file of annotations or frequencies'),
    ],
)
def test_class_frequencies_of_a_hostile_file(tmp_path, change, line):
    content = dict(images=[dict(id=1)], annotations=[dict(category_id=1, image_id=1)], categories=[dict(id=1)])
    (tmp_path / 'a.json').write_text(change if isinstance(change, str) else json.dumps({**content, **change}))
    with pytest.raises(ValueError) as error:
        load_class_frequency(tmp_path / 'a.json')
    assert str(error.value).startswith(f'{tmp_path}/a.json: {line}') and len(str(error.value)) < 500


def counted(classes):
    """Annotations of as many images, one of the class in each."""
    return json.dumps(
        dict(
            images=[dict(id=i) for i in range(len(classes))],
            categories=[dict(id=1), dict(id=2)],
            annotations=[dict(id=i, image_id=i, category_id=int(c)) for i, c in enumerate(classes)],
        )
    )


def test_counts_of_a_file_that_was_replaced_meanwhile_are_not_kept(tmp_path, monkeypatch):
    path, read = tmp_path / 'a.json', class_frequency._read_json

    def read_and_replace(path):
        content = read(path)
        path.write_text(counted('1111111112'))
        return content

    path.write_text(counted('1222'))
    monkeypatch.setattr(class_frequency, '_read_json', read_and_replace)
    assert load_class_frequency(path) == [0.25, 0.75]
    monkeypatch.undo()
    assert load_class_frequency(path) == [0.9, 0.1]


@pytest.mark.parametrize(
    'harm',
    [
        dict(n_images_annotated=0),
        dict(categories=[dict(id=1, image_count='a')]),
        dict(categories=3),
        dict(categories=[dict(id=1, image_count=5)]),
    ],
)
def test_damaged_counts_are_counted_anew(tmp_path, harm):
    path, cache = tmp_path / 'a.json', tmp_path / 'a.class_frequency.json'
    path.write_text(counted('1222'))
    load_class_frequency(path)
    sound = json.loads(cache.read_text())
    cache.write_text(json.dumps({**sound, **harm}))
    assert load_class_frequency(path) == [0.25, 0.75] and json.loads(cache.read_text()) == sound


# ---------------------------------------------------------------- weights


@pytest.fixture(scope='module')
def published():
    weights = SEResNet(18).state_dict()
    names = translate_names(weights, to_official=True)
    return {names[name]: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    'harm, line',
    [
        (lambda tensor: tensor / 0, r'1 not finite, first layer1.0.conv1.weight$'),
        (lambda tensor: tensor.bool(), '1 of another kind, first layer1.0.conv1.weight: integers$'),
        (lambda tensor: tensor.to(torch.complex64), '1 of another kind, first layer1.0.conv1.weight: complex numbers$'),
        (lambda tensor: tensor.to_sparse(), '1 of another kind, first layer1.0.conv1.weight: no plain tensor$'),
        (lambda tensor: tensor.to('meta'), '1 of another kind, first layer1.0.conv1.weight: no plain tensor$'),
        (
            lambda tensor: torch.zeros(1).expand(10**6, 10**6),
            r'1 of another shape, first layer1.0.conv1.weight: \(1000000, 1000000\), not',
        ),
    ],
)
def test_weights_that_could_not_be_used_are_not_converted(published, tmp_path, harm, line):
    weights = copy.copy(published)
    weights['layer1.0.conv1.weight'] = harm(weights['layer1.0.conv1.weight'])
    torch.save(dict(model=weights), tmp_path / 'in.pth')
    with pytest.raises(ValueError, match=rf'^{tmp_path}/in.pth does not fit .*{line}'):
        convert_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('name', ['a\nb', '\ud800', 'a\x1b[2Jb'])
def test_names_that_would_upset_a_terminal_are_none(tmp_path, name):
    torch.save({name: torch.ones(1)}, tmp_path / 'in.pth')
    with pytest.raises(BadCheckpoint, match=re.escape(f'{name!r} is not the name of a tensor')):
        read_checkpoint(tmp_path / 'in.pth')


class Larger:
    """A tensor that claims more numbers than the file has."""

    def __init__(self, tensor, size):
        self.tensor, self.size = tensor, size

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (self.tensor.storage(), 0, self.size, (1,), False, {})


@pytest.mark.parametrize('size', [(4,), (2**40,), (2**62,), (-1,)])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_tensor_that_claims_more_than_there_is(tmp_path, size, zipped):
    torch.save(dict(a=Larger(torch.ones(3), size)), tmp_path / 'in.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        BadCheckpoint, match='is cut short, damaged or no checkpoint|needs more memory than there is, or is damaged'
    ):
        read_checkpoint(tmp_path / 'in.pth')


class Sparse:
    """A sparse tensor with an index outside its size: reading it would read foreign memory."""

    def __reduce__(self):
        indices = torch.tensor([[0], [10**9]])
        return torch._utils._rebuild_sparse_tensor, (
            torch.sparse_coo,
            (indices, torch.ones(1), torch.Size([1, 3]), True),
        )


def test_a_sparse_tensor_with_indices_outside_its_size(tmp_path):
    torch.save(dict(a=Sparse()), tmp_path / 'in.pth')
    with pytest.raises(BadCheckpoint, match=r'damaged or no checkpoint .* size is 3 but found index 1000000000\)$'):
        read_checkpoint(tmp_path / 'in.pth')
    assert not torch.sparse.check_sparse_tensor_invariants.is_enabled()


def repeated(depth, copies):
    value = 1
    for _ in range(depth):
        value = [value] * copies
    return value


def test_plain_data_that_cannot_be_written_again_are_left_out(published, tmp_path):
    itself = []
    itself.append(itself)
    meta = dict(
        time='now',
        shared=repeated(40, 2),
        itself=itself,
        deep=repeated(300, 1),
        config='program',
        flat=[1, (2.5, None)],
    )
    torch.save({'state_dict': published, 'meta': meta, 'x\ud800': 1, 'x\n\x1b[31mall is well': 2}, tmp_path / 'in.pth')
    report = convert_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
    dropped = report.split('dropped')[1].split('missing')[0]
    report.encode()
    assert "'x\\ud800'" in dropped and "'x\\n\\x1b[31mall is well'" in dropped and '\x1b' not in report
    assert all(f'meta.{key}\n' in dropped for key in ('itself', 'deep', 'config'))
    kept = load_as_data(tmp_path / 'out.pth')['meta']
    shared = kept.pop('shared')  # not to be compared: 2^40 numbers
    assert shared[0] is shared[1] and kept == dict(time='now', flat=[1, (2.5, None)])


def test_a_name_with_a_number_of_thousands_of_digits(published, tmp_path):
    name = f'layer1.{"9" * 5000}.x'
    torch.save(dict(model={**published, name: torch.ones(1)}), tmp_path / 'in.pth')
    with pytest.raises(ValueError, match=f'in.pth does not fit .* 1 unexplained, first {name}$'):
        convert_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
