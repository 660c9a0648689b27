"""The tiny LVIS: a small set, read by the readers of LVIS and MMDetection, and the tool that makes it."""

import json
import runpy
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.paths import ROOT
from pycocotools import mask as mask_utils

from apa_mmdet.datasets.tiny_lvis import generate
from apa_mmdet.datasets.tiny_lvis.formats import FORMATS
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.datasets.tiny_lvis.plan import plan_split
from apa_mmdet.datasets.tiny_lvis.scenes import draw_scene
from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES

TOOL = ROOT / 'tools' / 'make_tiny_lvis.py'
SMALL = dict(train=60, val=24, size=96, seed=3, progress=False)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp('tiny') / 'set'
    make_tiny_lvis(out, **SMALL)
    return out


def read(out, split):
    return json.loads((out / 'annotations' / f'lvis_v1_{split}.json').read_text())


def contents(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob('*') if p.is_file()}


def by_image(content):
    found = defaultdict(list)
    for a in content['annotations']:
        found[a['image_id']].append(a)
    return found


def decode(polygons, w, h):
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, h, w)))


# --------------------------------------------------------------- files


def test_same_options_same_bytes_and_another_seed_differs(small, tmp_path):
    make_tiny_lvis(tmp_path / 'again', **SMALL)
    assert contents(tmp_path / 'again') == contents(small)
    make_tiny_lvis(tmp_path / 'other', **dict(SMALL, train=2, val=1, seed=4))
    name = 'val2017/000000000001.jpg'
    assert contents(tmp_path / 'other')[name] != contents(small)[name]


def test_an_image_depends_only_on_seed_split_and_number(small):
    plan = plan_split('val', SMALL['val'], SMALL['seed'])[7]
    objects = [CATEGORIES[c].rsplit('_', 1)[::-1] for c in plan.objects]
    alone, _ = draw_scene(objects, (96, 96), np.random.default_rng([SMALL['seed'], 1, 7]))
    stored = cv2.imread(str(small / 'val2017' / '000000000008.jpg'))
    assert np.abs(alone.astype(int) - stored).mean() < 6  # what JPEG loses


@pytest.mark.parametrize('split', ['train', 'val'])
def test_lvis_reads_the_annotations(small, split):
    from lvis import LVIS

    lvis = LVIS(str(small / 'annotations' / f'lvis_v1_{split}.json'))
    assert len(lvis.get_img_ids()) == SMALL[split]
    assert lvis.get_cat_ids() == list(range(1, 49))
    some = lvis.load_anns(lvis.get_ann_ids(img_ids=[1]))
    assert some and all(lvis.ann_to_mask(a).sum() > 0 for a in some)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_mmdet_reads_the_data_set(small, split):
    from mmdet.datasets import LVISV1Dataset

    dataset = LVISV1Dataset(
        data_root=str(small),
        ann_file=f'annotations/lvis_v1_{split}.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=CATEGORIES),
        pipeline=[],
        test_mode=split == 'val',
    )
    assert len(dataset) == SMALL[split]
    content = by_image(read(small, split))
    for k in range(len(dataset)):
        item = dataset.get_data_info(k)
        assert cv2.imread(item['img_path']).shape == (item['height'], item['width'], 3)
        labels = [instance['bbox_label'] for instance in item['instances']]
        assert labels == [a['category_id'] - 1 for a in content[item['img_id']]]
        assert all(instance['ignore_flag'] == 0 for instance in item['instances'])


def test_categories_count_the_training_split(small):
    train, val = read(small, 'train'), read(small, 'val')
    assert train['categories'] == val['categories']
    assert [c['name'] for c in train['categories']] == list(CATEGORIES)
    images, instances = defaultdict(set), Counter()
    for a in train['annotations']:
        images[a['category_id']].add(a['image_id'])
        instances[a['category_id']] += 1
    for c in train['categories']:
        count = len(images[c['id']])
        assert c['image_count'] == count
        assert c['instance_count'] == instances[c['id']]
        assert c['frequency'] == ('r' if count <= 10 else 'c' if count <= 100 else 'f')
        assert {'synset', 'synonyms', 'def'} <= c.keys()


@pytest.mark.parametrize('count, letter', [(1, 'r'), (10, 'r'), (11, 'c'), (100, 'c'), (101, 'f')])
def test_frequency_counts_images_not_instances(count, letter):
    annotations = [dict(category_id=1, image_id=i) for i in range(count)] * 2
    record = FORMATS['tiny_lvis'].categories(annotations)[0]
    assert (record['frequency'], record['image_count'], record['instance_count']) == (letter, count, 2 * count)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_annotations_are_exact(small, split):
    content = read(small, split)
    sizes = {i['id']: (i['width'], i['height']) for i in content['images']}
    assert [a['id'] for a in content['annotations']] == list(range(1, len(content['annotations']) + 1))
    ratios = []
    for a in content['annotations']:
        w, h = sizes[a['image_id']]
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in a['segmentation']])
        assert all(len(p) >= 6 and len(p) % 2 == 0 for p in a['segmentation'])
        assert (points >= 0).all() and (points <= (w, h)).all()
        low, high = points.min(0), points.max(0)
        assert a['bbox'] == pytest.approx([*low, *(high - low)], abs=0.011)
        ratios.append(decode(a['segmentation'], w, h).sum() / a['area'])
    # one small object is off by the pixels of its border that round to one side; over many that evens out
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    assert min(ratios) > 0.8 and max(ratios) < 1.2


@pytest.mark.parametrize('split', ['train', 'val'])
def test_federated_lists_agree_with_the_plan(small, split):
    content = read(small, split)
    found, plans = by_image(content), plan_split(split, SMALL[split], SMALL['seed'])
    for image, plan in zip(content['images'], plans):
        present = Counter(a['category_id'] for a in found[image['id']])
        drawn = Counter(c + 1 for c in plan.objects)
        assert not set(image['neg_category_ids']) & set(drawn)
        assert set(image['not_exhaustive_category_ids']) <= set(present)
        assert sorted((drawn - present).elements()) == image['not_exhaustive_category_ids']
    assert any(image['not_exhaustive_category_ids'] for image in content['images']) or split == 'val'


# --------------------------------------------------------------- tool and folder


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs tools/make_tiny_lvis.py; gives its exit status, or the error in its place, and what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['make_tiny_lvis.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL), run_name='__main__')
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


FEW = ('--train', 3, '--val', 2, '--size', '64x80')


def test_tool_makes_the_data_set_once(tool, tmp_path):
    code, out, _ = tool(tmp_path / 'a', *FEW)
    assert code is None
    assert '3 train, 2 val' in out and str(tmp_path / 'a') in out
    assert cv2.imread(str(tmp_path / 'a/train2017/000000000001.jpg')).shape == (80, 64, 3)
    before = contents(tmp_path / 'a')
    code, out, err = tool(tmp_path / 'a', *FEW)
    assert code is None and err == ''
    assert 'already' in out and out.count('\n') == 1
    assert contents(tmp_path / 'a') == before


@pytest.mark.parametrize(
    'form, folder',
    [
        ('tiny_lvis', 'tiny_lvis'),
        ('lvis_v1', 'tiny_lvis_v1'),
        ('lvis_v0.5', 'tiny_lvis_v0.5'),
        ('coco', 'tiny_coco'),
        ('v3det', 'tiny_v3det'),
        ('imagenet', 'tiny_objects'),
        ('small_lvis', 'small_lvis'),
        ('small_objects', 'small_objects'),
    ],
)
def test_tool_has_a_default_folder_for_each_format(tool, tmp_path, monkeypatch, form, folder):
    monkeypatch.chdir(tmp_path)
    code, out, _ = tool(*(() if form == 'tiny_lvis' else ('--form', form)), '--train', 1, '--val', 1, '--size', 64)
    assert code is None and out.endswith(f'folder     data/{folder}\n')
    assert [p.name for p in Path('data').iterdir()] == [folder]
    assert json.loads(Path('data', folder, 'tiny_lvis.json').read_text()).get('form', 'tiny_lvis') == form


def test_tool_refuses_an_unknown_format(tool, tmp_path):
    code, _, err = tool(tmp_path / 'a', '--form', 'voc')
    assert code == 2 and "argument --form: invalid choice: 'voc'" in err.splitlines()[-1]
    assert not (tmp_path / 'a').exists()


def test_tool_refuses_other_options_until_forced_and_removes_only_its_files(tool, tmp_path):
    tool(tmp_path, *FEW)
    (tmp_path / 'train2017' / 'mine.jpg').write_text('keep')
    before = contents(tmp_path)
    error, _, _ = tool(tmp_path, '--train', 1, '--val', 2, '--size', '64x80')
    assert 'another train' in error and '--force' in error and '\n' not in error
    assert contents(tmp_path) == before
    code, _, _ = tool(tmp_path, '--train', 1, '--val', 2, '--size', '64x80', '--force')
    assert code is None
    assert sorted(p.name for p in (tmp_path / 'train2017').iterdir()) == ['000000000001.jpg', 'mine.jpg']
    assert len(read(tmp_path, 'train')['images']) == 1


def test_tool_refuses_a_folder_with_other_files(tool, tmp_path):
    (tmp_path / 'thesis.txt').write_text('keep')
    error, _, _ = tool(tmp_path, *FEW)
    assert error.startswith('make_tiny_lvis: ') and 'not empty' in error and '\n' not in error
    assert contents(tmp_path) == {'thesis.txt': b'keep'}
    code, _, _ = tool(tmp_path, *FEW, '--force')
    assert code is None
    assert (tmp_path / 'thesis.txt').read_text() == 'keep'


def test_tool_refuses_a_file_as_folder(tool, tmp_path):
    (tmp_path / 'file').write_text('')
    assert 'not a folder' in tool(tmp_path / 'file', *FEW)[0]


def test_the_same_command_continues_after_an_interruption(tool, tmp_path, monkeypatch):
    draw, calls = generate.draw_scene, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(generate, 'draw_scene', interrupted)
    assert tool(tmp_path / 'a', *FEW)[0] == 130
    assert not (tmp_path / 'a' / 'tiny_lvis.json').exists()
    monkeypatch.setattr(generate, 'draw_scene', draw)
    assert tool(tmp_path / 'a', *FEW)[0] is None
    assert tool(tmp_path / 'b', *FEW)[0] is None
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')


def test_a_lost_image_is_drawn_again(tool, tmp_path):
    tool(tmp_path, *FEW)
    before = contents(tmp_path)
    (tmp_path / 'val2017' / '000000000002.jpg').unlink()
    assert tool(tmp_path, *FEW)[0] is None
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    'arguments',
    [
        ('--train', 0),
        ('--val', 0),
        ('--train', 'many'),
        ('--size', 63),
        ('--size', '64x63'),
        ('--size', '1x2x3'),
        ('--size', 'x'),
        ('--seed', -1),
    ],
)
def test_tool_refuses_bad_options_in_one_line(tool, tmp_path, arguments):
    code, _, err = tool(tmp_path / 'a', *arguments)
    assert code == 2
    assert f'argument {arguments[0]}: {str(arguments[1])!r} is not' in err.splitlines()[-1]
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize('bad', [dict(train=0), dict(size=32), dict(size=(64, 63)), dict(seed=-1)])
def test_bad_arguments_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match='or more'):
        make_tiny_lvis(tmp_path / 'a', **{**SMALL, **bad})
