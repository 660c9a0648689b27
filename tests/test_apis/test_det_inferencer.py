"""Detection on images without annotations: what is found, what it is called, and what is refused."""

import functools
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.disk import files_no_larger_than
from helpers.paths import ROOT
from helpers.tiny_runs import tinier
from mmdet.apis import inference_detector, init_detector
from mmdet.models.dense_heads import GroundingDINOHead
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from pycocotools import mask as mask_utils

from apa_mmdet.apis.det_inferencer import StrictDetInferencer, class_names
from apa_mmdet.apis.inference_folder import detect_folder, find_images
from apa_mmdet.apis.inference_loading import AnyImageLoader
from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data
from apa_mmdet.checkpoint.official_names import translate_names
from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES
from apa_mmdet.structures.best_class import SAME_OBJECT_IOU
from apa_mmdet.utils.config import build_detector
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.visualization.contact_sheet import browse
from apa_mmdet.visualization.images import UNREADABLE

CLASSES = sorted(CATEGORIES)
LOW = 1e-4  # a score that the random weights reach
LOAD = "dict(type='LoadImageFromFile'), dict(type='Resize', scale=None)"
RESIZED = f'test_dataloader = dict(dataset=dict(pipeline=[{LOAD}]))'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, tiny_data):
    """A folder with a config, a checkpoint of it and some images."""
    folder = tmp_path_factory.mktemp('inference')
    (folder / 'data').symlink_to(tiny_data(train=4, val=2, size=(96, 72)))
    cfg = tinier(folder / 'data', folder / 'work', **{'model.test_cfg.rcnn': dict(score_thr=1e-6, max_per_img=8)})
    runner = Runner.from_cfg(cfg)
    torch.manual_seed(0)
    runner.model.init_weights()
    cfg.dump(folder / 'config.py')
    runner.save_checkpoint(str(folder), 'weights.pth', save_optimizer=False, save_param_scheduler=False)
    return folder


@pytest.fixture(scope='module')
def inferencer(tiny):
    return StrictDetInferencer(tiny / 'config.py', tiny / 'weights.pth', 'cpu')


@pytest.fixture
def photos(tiny, tmp_path):
    """Images of several formats, and a text file."""
    made = [cv2.imread(str(path)) for path in sorted((tiny / 'data').glob('*2017/*.jpg'))]
    folder = tmp_path / 'photos'
    for name, image in zip(('b/same.jpg', 'a/same.jpg', 'B.PNG', 'c.webp', 'B.JPG', '.hidden.jpg'), made):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)
    (folder / 'notes.txt').write_text('no image')
    return folder


def demo(monkeypatch, capsys, *arguments):
    """What tools/image_demo.py prints, and its last words."""
    monkeypatch.setattr(sys, 'argv', ['image_demo.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/image_demo.py'), run_name='__main__')
    return capsys.readouterr().out, ended.value.code


def test_a_folder_gets_images_and_json_of_what_mmdet_detects(tiny, photos, tmp_path, monkeypatch, capsys):
    (photos / 'damaged.jpg').write_bytes(b'\xff\xd8 no image')
    (photos / 'empty.png').touch()
    out = photos / 'outputs'
    arguments = [photos, tiny / 'config.py', tiny / 'weights.pth', '--out-dir', out, '--score-thr', LOW]
    arguments.append('--all-classes')  # as mmdet's
    for batch_size in (1, 3):  # the second time the folder has the images of the first
        said, code = demo(monkeypatch, capsys, *arguments, '--device', 'cpu', '--batch-size', batch_size)
        skipped = f'{UNREADABLE}: {photos}/damaged.jpg, {photos}/empty.png'
        assert code == f'image_demo: 2 images skipped: {skipped}'
        names = ['B.JPG', 'B.PNG', 'a/same.jpg', 'b/same.jpg', 'c.webp']
        assert sorted(p.relative_to(out / 'vis').as_posix() for p in out.rglob('vis/**/*.*')) == names
        found = {name: json.loads((out / 'preds' / f'{name}.json').read_text()) for name in names}
        assert len(list(out.rglob('*.json'))) == len(names)
        number = sum(len(content['scores']) for content in found.values())
        assert f'found {number} objects in 5 images: ' in said and f'written to {out}' in said and number > 5

    model = init_detector(str(tiny / 'config.py'), str(tiny / 'weights.pth'), device='cpu')
    for name in names:
        content, path = found[name], photos / name
        height, width = cv2.imread(str(path)).shape[:2]
        expected = inference_detector(model, str(path)).pred_instances
        expected = expected[expected.scores >= LOW]
        assert (content['image'], content['height'], content['width']) == (name, height, width)
        assert content['scores'] == pytest.approx(expected.scores.tolist(), rel=1e-4)
        assert np.array(content['bboxes']) == pytest.approx(expected.bboxes.numpy(), abs=0.01)
        assert content['labels'] == expected.labels.tolist()
        assert content['label_names'] == [CLASSES[label] for label in content['labels']]
        masks = mask_utils.decode([dict(m, counts=m['counts'].encode()) for m in content['masks']])
        assert (masks.astype(bool) == expected.masks.numpy().transpose(1, 2, 0)).mean() > 0.999
        picture = cv2.imread(str(out / 'vis' / name))
        assert picture.shape == (360, 480, 3)  # enlarged from 72 x 96
        plain = cv2.resize(cv2.imread(str(path)), (480, 360), interpolation=cv2.INTER_CUBIC)
        assert 2 < np.abs(picture.astype(int) - plain).mean() < 80


def test_either_output_can_be_skipped(tiny, photos, tmp_path, monkeypatch, capsys):
    shutil.copy(photos / 'B.JPG', photos / 'no_suffix')
    arguments = [photos / 'no_suffix', tiny / 'config.py', tiny / 'weights.pth', '--device', 'cpu']
    for option, files in (('--no-save-pred', ['vis/no_suffix.png']), ('--no-save-vis', ['preds/no_suffix.json'])):
        out = tmp_path / option
        said, code = demo(monkeypatch, capsys, *arguments, '--out-dir', out, option)
        assert code is None and 'found no objects in 1 image; a lower --score-thr' in said
        assert [p.relative_to(out).as_posix() for p in out.rglob('*.*')] == files


def test_detect_returns_objects_in_falling_order(inferencer, photos):
    found = inferencer.detect(photos / 'a/same.jpg', score_thr=LOW)
    assert len(found) == len(found.label_names) > 0 and found.masks.shape == (len(found), 72, 96)
    assert found.masks.dtype == torch.bool and found.scores.min() >= LOW
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.label_names == [CLASSES[label] for label in found.labels]
    again = inferencer.detect(cv2.imread(str(photos / 'a/same.jpg')), score_thr=LOW)
    assert torch.equal(again.bboxes, found.bboxes)
    assert len(inferencer.detect(photos / 'a/same.jpg', score_thr=1.1)) == 0


def test_images_are_listed_in_order_without_an_earlier_output(photos):
    names = ['B.JPG', 'B.PNG', 'a/same.jpg', 'c.webp']
    assert find_images(photos, photos / 'b') == (photos, [f'{photos}/{name}' for name in names])
    assert find_images(photos / 'c.webp', photos) == (photos, [f'{photos}/c.webp'])


def test_an_object_is_given_once_unless_all_classes_are_asked_for(inferencer, photos):
    everything = inferencer.detect(photos / 'a/same.jpg', score_thr=LOW, all_classes=True)
    best = inferencer.detect(photos / 'a/same.jpg', score_thr=LOW)
    overlaps = bbox_overlaps(best.bboxes, best.bboxes).triu(1)
    assert overlaps.max() <= SAME_OBJECT_IOU < bbox_overlaps(everything.bboxes, everything.bboxes).triu(1).max()
    assert 0 < len(best) < len(everything) and best.scores[0] == everything.scores[0]
    path = str(photos / 'a/same.jpg')
    assert inferencer(path)['predictions'][0]['scores'][0] == pytest.approx(best.scores[0].item())
    assert len(inferencer(path, all_classes=True)['predictions'][0]['scores']) == len(everything)


# ---------------------------------------------------------------- formats


SEVERAL_IMAGES = 'animated.GIF', 'pages.tif'


def test_formats_that_opencv_or_pillow_read_are_found_and_the_rest_is_named(inferencer, tiny, tmp_path):
    picture = Image.open(next((tiny / 'data/val2017').iterdir()))
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name, mode in (
        ('animated.GIF', 'P'),
        ('pages.tif', 'RGB'),
        ('alpha.png', 'RGBA'),
        ('gray_alpha.png', 'LA'),
        ('bits.png', '1'),
        ('ink.jpg', 'CMYK'),
        ('web.webp', 'RGB'),
    ):
        several = (
            dict(save_all=True, append_images=[picture.convert(mode)]) if name[0] in 'ap' and '.p' not in name else {}
        )
        picture.convert(mode).save(folder / name, **several)
    (folder / 'phone.heic').write_bytes(b'\0\0\0 ftypheic')
    summary = detect_folder(inferencer, str(folder), str(tmp_path / 'out'), batch_size=3, score_thr=LOW)
    assert summary.images == 7 and summary.skipped == {str(folder / 'phone.heic'): UNREADABLE}
    assert (tmp_path / 'out/vis/animated.GIF.png').is_file() and (tmp_path / 'out/preds/ink.jpg.json').is_file()


def test_pillow_reads_what_opencv_does_not(tmp_path, monkeypatch):
    Image.new('RGB', (6, 4), (250, 0, 0)).save(tmp_path / 'a.gif')
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: None)  # as OpenCV before 4.11 answers to a GIF
    loaded = AnyImageLoader(dict(type='LoadImageFromFile'))(str(tmp_path / 'a.gif'))
    assert loaded['img'].shape == (4, 6, 3) and loaded['img'][0, 0].tolist() == [0, 0, 250]  # BGR


def test_an_image_that_cannot_be_detected_on_does_not_end_a_folder(inferencer, tiny, tmp_path):
    (tmp_path / 'photos').mkdir()
    picture = Image.open(next((tiny / 'data/val2017').iterdir()))
    for name, image in (('a.png', picture), ('b.png', Image.new('RGB', (5000, 1))), ('c.png', picture)):
        image.save(tmp_path / 'photos' / name)  # b: of no height at the detector's size
    summary = detect_folder(inferencer, str(tmp_path / 'photos'), str(tmp_path / 'out'), 3, no_save_vis=True)
    assert summary.images == 2 and [Path(path).name for path in summary.skipped] == ['b.png']
    assert sorted(p.name for p in (tmp_path / 'out/preds').iterdir()) == ['a.png.json', 'c.png.json']


def test_predictions_of_an_image_are_written_as_a_whole_or_not_at_all(inferencer, tiny, tmp_path):
    options = dict(out_dir=str(tmp_path), no_save_vis=True, no_save_pred=False, score_thr=LOW)
    image = str(next((tiny / 'data/val2017').iterdir()))
    inferencer(image, **options)
    (written,) = (path for path in tmp_path.rglob('*') if path.is_file())
    before = json.loads(written.read_text())
    with files_no_larger_than(written.stat().st_size // 2), pytest.raises(OSError, match='File too large'):
        inferencer(image, **options)
    assert json.loads(written.read_text()) == before and list(written.parent.iterdir()) == [written]


def test_images_of_four_channels_are_browsed_and_detected_on(tiny, tmp_path):
    cfg = Config.fromfile(tiny / 'config.py')
    cfg.model.backbone.in_channels = 4
    cfg.model.data_preprocessor.update(mean=None, std=None, bgr_to_rgb=False)
    load, *steps = cfg.test_dataloader.dataset.pipeline
    normalize = dict(type='Normalize', mean=[100] * 4, std=[60] * 4, to_rgb=False)
    cfg.test_dataloader.dataset.pipeline = [dict(load, color_type='unchanged'), normalize, *steps]
    shutil.copytree(tiny / 'data', tmp_path / 'data')
    for path in (tmp_path / 'data/val2017').iterdir():
        image = cv2.imread(str(path))
        path.write_bytes(cv2.imencode('.tif', np.dstack([image, image[..., :1] // 2]))[1].tobytes())
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'data')
    assert browse(cfg, tmp_path / 'sheet.png', 'test', 1, progress=False).drawn == 1
    assert cv2.imread(str(tmp_path / 'sheet.png')).std() > 20
    torch.save(dict(state_dict=build_detector(cfg, '').state_dict()), tmp_path / 'weights.pth')
    inferencer = StrictDetInferencer(cfg, tmp_path / 'weights.pth', 'cpu')
    summary = detect_folder(inferencer, str(tmp_path / 'data/val2017'), str(tmp_path / 'out'), score_thr=LOW)
    assert summary.images == 2 and not summary.skipped and len(list((tmp_path / 'out/vis').iterdir())) == 2


# ---------------------------------------------------------------- names


def changed(tiny, path, **changes):
    """The checkpoint with some of its parts changed, or removed with None."""
    content = {**load_as_data(tiny / 'weights.pth'), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_names_are_the_checkpoints_or_else_the_configs(tiny, tmp_path):
    own = [f'own {i}' for i in range(48)]
    for meta, names in (
        (dict(dataset_meta=dict(CLASSES=own)), own),
        (dict(CLASSES=own), own),
        (dict(dataset_meta=dict(classes=own[:3])), CLASSES),  # not of this model
        ({}, CLASSES),
        (None, CLASSES),  # as converted weights
        ('text', CLASSES),
    ):
        path = changed(tiny, tmp_path / 'weights.pth', meta=meta)
        assert list(StrictDetInferencer(tiny / 'config.py', path, 'cpu').model.dataset_meta['classes']) == names


def test_a_calibration_takes_the_classes_of_the_checkpoint(tiny, tmp_path):
    cfg = Config.fromfile(tiny / 'config.py')
    stats = dict(image_count=list(range(1, 49)), names=CLASSES[::-1])
    cfg.model.update(type='CalibrateScores', module=dict(type='MaskRCNN'), calibration=dict(type='IIF', stats=stats))
    model = StrictDetInferencer(cfg, changed(tiny, tmp_path / 'weights.pth'), 'cpu').model
    calibration = model.roi_head.bbox_head.score_calibration
    assert list(calibration.classes) == CLASSES and (calibration.prior.diff() > 0).all()


def test_names_are_not_guessed(tmp_path, monkeypatch):
    cfg = Config.fromfile(ROOT / 'configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py')
    assert class_names(cfg) == ('date', 'fig', 'hazelnut')
    del cfg.test_dataloader.dataset.metainfo
    with pytest.raises(CodedError, match='the model has 3 classes, but there are names for 80; name them in ') as error:
        class_names(cfg)
    assert error.value.code == 'class-count'
    cfg.test_dataloader.dataset.metainfo = 3
    with pytest.raises(CodedError, match='custom.py: its test data set cannot be built: TypeError: ') as error:
        class_names(cfg)
    assert error.value.code == 'not-buildable'
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs/v3det/faster_rcnn_se_r50_apa_v3det.py')
    with pytest.raises(FileNotFoundError, match='category_name_13204_v3det_2023_v1.txt'):
        class_names(cfg)
    assert len(class_names(cfg, dict(dataset_meta=dict(classes=list(range(13204)))))) == 13204


def test_the_words_of_a_text_are_no_classes():
    dataset = dict(type='CocoDataset', ann_file='', metainfo=dict(classes=('date', 'fig')))
    for head in ('GroundingDINOHead', 'mmdet.GroundingDINOHead', GroundingDINOHead):
        model = dict(type='GroundingDINO', bbox_head=dict(type=head, num_classes=256))
        assert class_names(Config(dict(model=model, test_dataloader=dict(dataset=dataset)))) == ('date', 'fig')


# ---------------------------------------------------------------- what is refused


def test_another_models_weights_are_refused(tiny, tmp_path):
    cfg = Config.fromfile(tiny / 'config.py')
    cfg.model.backbone.update(act_cfg=dict(type='ReLU'))
    refused = functools.partial(pytest.raises, WrongWeights)
    line = rf'^{tiny}/weights.pth does not fit {tiny}/config.py: weights 34 unexpected, first '
    with refused(match=f'{line}backbone.act_stem.lambda_; use the config that it was trained with$') as error:
        StrictDetInferencer(cfg, tiny / 'weights.pth', 'cpu')
    assert error.value.code == 'other-model' and len(error.value.differences['unexpected']) == 34
    weights = load_as_data(tiny / 'weights.pth')['state_dict']
    published = {theirs: weights[ours] for ours, theirs in translate_names(weights, to_official=True).items()}
    path = changed(tiny, tmp_path / 'published.pth', state_dict=published)
    with refused(match='convert the official names with tools/convert_official_weights.py$') as error:
        StrictDetInferencer(tiny / 'config.py', path, 'cpu')
    assert error.value.code == 'official-names'
    name = 'backbone.layer1.0.act_out.kappa'
    path = changed(tiny, tmp_path / 'nan.pth', state_dict={**weights, name: weights[name] * float('nan')})
    with refused(match=f'weights 1 not finite, first {name}; use an earlier checkpoint$') as error:
        StrictDetInferencer(tiny / 'config.py', path, 'cpu')
    assert error.value.code == 'not-finite'
    for content in (dict(a=1), dict(model=weights), dict(state_dict=[1]), [1]):
        torch.save(content, tmp_path / 'none.pth')
        with pytest.raises(BadCheckpoint, match=f'^{tmp_path}/none.pth holds no weights, neither') as error:
            StrictDetInferencer(tiny / 'config.py', tmp_path / 'none.pth', 'cpu')
        assert error.value.code == 'no-weights'
    old = {f'module.{name}': tensor for name, tensor in weights.items() if 'num_batches_tracked' not in name}
    path = changed(tiny, tmp_path / 'old.pth', state_dict=old)  # of DistributedDataParallel, and of old norms
    assert torch.equal(StrictDetInferencer(tiny / 'config.py', path, 'cpu').model.state_dict()[name], weights[name])


@pytest.mark.parametrize(
    'change, line',
    [
        (dict(source='none.jpg'), 'none.jpg: no such image or folder'),
        (dict(source='.'), '. holds no image: no file that ends in .jpg, .jpeg, .png, .*'),
        (dict(config='none.py'), 'config none.py: no such file'),
        (dict(config='other.py'), 'other.py is not the config of a detector: no model or no test_dataloader'),
        (dict(config='broken.py'), 'config broken.py: SyntaxError: .*'),
        (dict(config='unloaded.py'), 'unloaded.py: its test pipeline loads no image'),
        (dict(config='transform.py'), 'transform.py: its test pipeline cannot be built: AssertionError: .*'),
        (dict(checkpoint='none.pth'), '.*none.pth.*'),
        (dict(checkpoint='other.py'), 'other.py is not a checkpoint of PyTorch, it begins with .*'),
        (dict(device='nowhere:0'), r'no device nowhere:0 here \(.*\); cpu is always there'),
        pytest.param(
            dict(device='cuda'),
            r'no device cuda here \(.*\); cpu is always there',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without'),
        ),
        (dict(out_dir='other.py'), '.*other.py.*'),
        (dict(source='other.py'), f'1 image skipped: {UNREADABLE}: other.py'),
    ],
    ids=lambda value: '-'.join(map(str, next(iter(value.items())))) if isinstance(value, dict) else '',
)
def test_the_tool_reports_in_one_line_what_is_wrong(tiny, photos, tmp_path, monkeypatch, capsys, change, line):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    Path('other.py').write_text('a = 1')
    Path('broken.py').write_text('model = dict(')
    Path('unloaded.py').write_text(f"_base_ = '{tiny}/config.py'\ntest_dataloader = dict(dataset=dict(pipeline=[]))")
    Path('transform.py').write_text(f"_base_ = '{tiny}/config.py'\n{RESIZED}")
    given = dict(source=photos / 'B.JPG', config=tiny / 'config.py', checkpoint=tiny / 'weights.pth', out_dir='out')
    given = {**given, 'device': 'cpu', **change}
    positional = [given.pop(name) for name in ('source', 'config', 'checkpoint')]
    options = [part for name, value in given.items() for part in (f'--{name.replace("_", "-")}', value)]
    said, code = demo(monkeypatch, capsys, *positional, *options)
    assert re.fullmatch(f'image_demo: {line}', code) and 'found' not in said
