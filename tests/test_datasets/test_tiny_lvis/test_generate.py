"""The tiny LVIS: its plan at full size, and a small set drawn once and read by LVIS's and MMDetection's own readers."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.paths import ROOT
from pycocotools import mask as mask_utils

from apa_mmdet.datasets.tiny_lvis import formats as tiny_forms
from apa_mmdet.datasets.tiny_lvis import generate as tiny_lvis
from apa_mmdet.datasets.tiny_lvis import scenes as tiny_scenes
from apa_mmdet.datasets.tiny_lvis.generate import CATEGORIES, make_tiny_lvis, plan_split

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


def images_per_class(plans):
    return Counter(c for plan in plans for c in set(plan.objects))


# --------------------------------------------------------------- plan


def test_names_are_unique_sorted_and_made_of_every_shape_and_appearance():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 48
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert Counter(name.rsplit('_', 1)[1] for name in CATEGORIES) == dict.fromkeys(tiny_scenes.SHAPES, 6)
    assert Counter(name.rsplit('_', 1)[0] for name in CATEGORIES) == dict.fromkeys(tiny_scenes.APPEARANCES, 8)


@pytest.mark.parametrize('num_images', [800, 1000])
def test_train_plan_has_a_long_tail_over_all_classes(num_images):
    counts = images_per_class(plan_split('train', num_images, 0))
    rare = [c for c, n in counts.items() if n <= 10]
    frequent = [c for c, n in counts.items() if n > 100]
    assert len(counts) == 48
    assert len(rare) >= 12 and len(frequent) >= 12 and 48 - len(rare) - len(frequent) >= 12
    assert max(counts.values()) >= 50 * min(counts.values())


def test_no_shape_and_no_appearance_is_rare_as_a_whole():
    counts = images_per_class(plan_split('train', 800, 0))
    for part in (*tiny_scenes.SHAPES, *tiny_scenes.APPEARANCES):
        members = [counts[k] for k, name in enumerate(CATEGORIES) if part in name]
        assert min(members) <= 10 and max(members) > 100, part


def test_a_large_set_still_has_rare_classes():
    assert (tiny_lvis.planned_counts('train', 20000) <= 10).sum() == 12


def test_planned_counts_come_out():
    planned = tiny_lvis.planned_counts('train', 800)
    assert images_per_class(plan_split('train', 800, 0)) == dict(enumerate(planned))


def test_val_plan_is_balanced_whatever_the_training_frequency():
    counts = images_per_class(plan_split('val', 200, 0))
    assert len(counts) == 48
    assert min(counts.values()) >= 8
    assert max(counts.values()) == min(counts.values())


@pytest.mark.parametrize('split, negatives', [('train', 8), ('val', 20)])
def test_plan_of_an_image(split, negatives):
    plans = plan_split(split, 400, 1)
    for plan in plans:
        assert 2 <= len(plan.objects) <= 6
        assert len(set(plan.negatives)) == negatives
        assert not set(plan.negatives) & set(plan.objects)
        if plan.dropped is not None:
            assert plan.objects.count(plan.objects[plan.dropped]) >= 2
    dropped = sum(plan.dropped is not None for plan in plans)
    assert 0.02 <= dropped / len(plans) <= 0.08


@pytest.mark.parametrize('num_images', [1, 2, 7, 40])
def test_tiny_plans_are_possible(num_images):
    plans = plan_split('train', num_images, 0)
    assert len(plans) == num_images
    assert all(2 <= len(plan.objects) <= 6 for plan in plans)
    assert num_images < 40 or len(images_per_class(plans)) == 48


# --------------------------------------------------------------- files


def test_same_options_same_bytes_and_another_seed_differs(small, tmp_path):
    make_tiny_lvis(tmp_path / 'again', **SMALL)
    assert contents(tmp_path / 'again') == contents(small)
    make_tiny_lvis(tmp_path / 'other', **dict(SMALL, train=2, val=1, seed=4))
    name = 'val2017/000000000001.jpg'
    assert contents(tmp_path / 'other')[name] != contents(small)[name]


def test_an_image_depends_on_seed_split_and_number_alone(small):
    plan = plan_split('val', SMALL['val'], SMALL['seed'])[7]
    objects = [CATEGORIES[c].rsplit('_', 1)[::-1] for c in plan.objects]
    alone, _ = tiny_scenes.draw_scene(objects, (96, 96), np.random.default_rng([SMALL['seed'], 1, 7]))
    stored = cv2.imread(str(small / 'val2017' / '000000000008.jpg'))
    assert np.abs(alone.astype(int) - stored).mean() < 6  # what JPEG loses


@pytest.mark.parametrize('split', ['train', 'val'])
def test_lvis_reads_it(small, split):
    from lvis import LVIS

    lvis = LVIS(str(small / 'annotations' / f'lvis_v1_{split}.json'))
    assert len(lvis.get_img_ids()) == SMALL[split]
    assert lvis.get_cat_ids() == list(range(1, 49))
    some = lvis.load_anns(lvis.get_ann_ids(img_ids=[1]))
    assert some and all(lvis.ann_to_mask(a).sum() > 0 for a in some)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_mmdet_reads_it(small, split):
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


def test_categories_tell_the_truth_about_the_training_split(small):
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
    record = tiny_forms.FORMS['tiny_lvis'].categories(annotations)[0]
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
    spec = importlib.util.spec_from_file_location('make_tiny_lvis_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['make_tiny_lvis.py', *map(str, arguments)])
        try:
            code = module.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


FEW = ('--train', 3, '--val', 2, '--size', '64x80')


def test_tool_makes_it_once_and_says_so(tool, tmp_path):
    code, out, _ = tool(tmp_path / 'a', *FEW)
    assert code == 0
    assert '3 train, 2 val' in out and str(tmp_path / 'a') in out
    assert cv2.imread(str(tmp_path / 'a/train2017/000000000001.jpg')).shape == (80, 64, 3)
    before = contents(tmp_path / 'a')
    code, out, err = tool(tmp_path / 'a', *FEW)
    assert code == 0 and err == ''
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
    ],
)
def test_tool_puts_each_form_into_a_folder_of_its_own(tool, tmp_path, monkeypatch, form, folder):
    monkeypatch.chdir(tmp_path)
    code, out, _ = tool(*(() if form == 'tiny_lvis' else ('--form', form)), '--train', 1, '--val', 1, '--size', 64)
    assert code == 0 and out.endswith(f'folder     data/{folder}\n')
    assert [p.name for p in Path('data').iterdir()] == [folder]
    assert json.loads(Path('data', folder, 'tiny_lvis.json').read_text()).get('form', 'tiny_lvis') == form


def test_tool_refuses_an_unknown_form(tool, tmp_path):
    code, _, err = tool(tmp_path / 'a', '--form', 'voc')
    assert code == 2 and "argument --form: invalid choice: 'voc'" in err.splitlines()[-1]
    assert not (tmp_path / 'a').exists()


def test_tool_refuses_other_options_until_forced_and_removes_only_its_own(tool, tmp_path):
    tool(tmp_path, *FEW)
    (tmp_path / 'train2017' / 'mine.jpg').write_text('keep')
    before = contents(tmp_path)
    code, _, err = tool(tmp_path, '--train', 1, '--val', 2, '--size', '64x80')
    assert code == 2
    assert 'another train' in err and '--force' in err and err.count('\n') == 1
    assert contents(tmp_path) == before
    code, _, _ = tool(tmp_path, '--train', 1, '--val', 2, '--size', '64x80', '--force')
    assert code == 0
    assert sorted(p.name for p in (tmp_path / 'train2017').iterdir()) == ['000000000001.jpg', 'mine.jpg']
    assert len(read(tmp_path, 'train')['images']) == 1


def test_tool_refuses_a_folder_of_something_else(tool, tmp_path):
    (tmp_path / 'thesis.txt').write_text('keep')
    code, _, err = tool(tmp_path, *FEW)
    assert code == 2
    assert 'not empty' in err and err.count('\n') == 1
    assert contents(tmp_path) == {'thesis.txt': b'keep'}
    code, _, _ = tool(tmp_path, *FEW, '--force')
    assert code == 0
    assert (tmp_path / 'thesis.txt').read_text() == 'keep'


def test_tool_refuses_a_file_as_folder(tool, tmp_path):
    (tmp_path / 'file').write_text('')
    code, _, err = tool(tmp_path / 'file', *FEW)
    assert code == 2 and 'not a folder' in err


def test_after_an_interruption_the_same_command_goes_on(tool, tmp_path, monkeypatch):
    draw, calls = tiny_lvis.draw_scene, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(tiny_lvis, 'draw_scene', interrupted)
    code, _, err = tool(tmp_path / 'a', *FEW)
    assert code == 130 and 'again' in err
    assert not (tmp_path / 'a' / 'tiny_lvis.json').exists()
    monkeypatch.setattr(tiny_lvis, 'draw_scene', draw)
    assert tool(tmp_path / 'a', *FEW)[0] == 0
    assert tool(tmp_path / 'b', *FEW)[0] == 0
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')


def test_a_lost_image_is_made_again(tool, tmp_path):
    tool(tmp_path, *FEW)
    before = contents(tmp_path)
    (tmp_path / 'val2017' / '000000000002.jpg').unlink()
    assert tool(tmp_path, *FEW)[0] == 0
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
def test_bad_options_are_one_clear_line(tool, tmp_path, arguments):
    code, _, err = tool(tmp_path / 'a', *arguments)
    assert code == 2
    assert f'argument {arguments[0]}: {str(arguments[1])!r} is not' in err.splitlines()[-1]
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize('bad', [dict(train=0), dict(size=32), dict(size=(64, 63)), dict(seed=-1)])
def test_bad_arguments(tmp_path, bad):
    with pytest.raises(ValueError, match='or more'):
        make_tiny_lvis(tmp_path / 'a', **{**SMALL, **bad})


def test_the_drawing_needs_neither_torch_nor_mmdet():
    folder = Path(tiny_lvis.__file__).parent
    script = (
        f'import sys, types; p = types.ModuleType("p"); p.__path__ = [{str(folder)!r}]; sys.modules["p"] = p; '
        'import p.tiny_lvis; sys.exit(bool({"torch", "mmcv", "mmengine", "mmdet"} & set(sys.modules)))'
    )
    assert subprocess.run([sys.executable, '-c', script]).returncode == 0
