"""Exports in onnxruntime; whole detectors compared with MMDetection's own predictions."""

import inspect
import os
import re
import runpy
import sys
from pathlib import Path

import cv2
import mmcv.ops
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_runs import tinier
from mmdet.apis import inference_detector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.deploy.export_onnx import build, export_onnx, load_weights
from apa_mmdet.deploy.operators import nms, roi_align, topk
from apa_mmdet.deploy.unsupported import NotExportable
from apa_mmdet.deploy.verify import TOLERANCE
from apa_mmdet.utils.errors import CodedError

CLASSES = [f'class {i}' for i in range(48)]
SIZE = (96, 128)


def written(cfg, folder):
    """Writes a config and random weights for it, in which no layer is an identity."""
    cfg.dump(str(folder / 'config.py'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'weights.pth')
    return str(folder / 'config.py'), str(folder / 'weights.pth')


NARROW = dict(depth=18, base_channels=8, stem_channels=8, num_stages=2, strides=(1, 2), dilations=(1, 1))
NARROW['out_indices'] = (0, 1)


def backbone_cfg(act='AGLU', **backbone):
    backbone = dict(NARROW, type='SEResNet', act_cfg=dict(type=act)) | backbone
    neck = dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=5)
    head = dict(type='RetinaHead', num_classes=48, in_channels=16, feat_channels=16, stacked_convs=1)
    model = dict(type='RetinaNet', backbone=backbone, neck=neck, bbox_head=head, _scope_='mmdet')
    return Config(dict(custom_imports=dict(imports=['apa_mmdet']), model=model), format_python_code=False)


def detector_cfg(tmp_path, **options):
    cfg = tinier(tmp_path, tmp_path, **options)
    cfg.model.test_cfg.rcnn.score_thr = 0.3
    return cfg


def tool(*args, monkeypatch):
    """Runs the tool; returns the line that it ends with, or None."""
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/export_onnx.py'), run_name='__main__')
    return ended.value.code


def run(path, **inputs):
    session = onnxruntime.InferenceSession(str(path))
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, inputs)))


@pytest.mark.parametrize('act', ['APA', 'AGLU', 'AconA', 'AconB', 'AconC', 'MetaAconC', 'APALU'])
def test_backbone_and_neck_with_every_activation_match_pytorch(act, tmp_path):
    config, weights = written(backbone_cfg(act), tmp_path)
    done = export_onnx(config, weights, tmp_path / 'new/backbone.onnx', shape=SIZE)
    assert list(done.differences) == [(1, 3, 96, 128), (2, 3, 64, 96)]
    assert all(d.relative <= TOLERANCE for found in done.differences.values() for d in found)
    content = onnx.load(done.path)
    assert {node.domain for node in content.graph.node} <= {'', 'ai.onnx'}
    assert 'BatchNormalization' not in {node.op_type for node in content.graph.node}
    image = np.random.default_rng(0).normal(size=(3, 3, 64, 160)).astype(np.float32)
    got = run(done.path, image=image)
    assert list(got) == ['p2', 'p3', 'p4', 'p5', 'p6'] and got['p2'].shape == (3, 16, 16, 40)
    model = build(Config.fromfile(config), config)
    load_weights(model, Path(weights))
    for tensor, want in zip(got.values(), model.extract_feat(torch.from_numpy(image))):
        assert abs(tensor - want.numpy()).max() <= TOLERANCE * want.abs().max()


@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_other_channels_are_exported(channels, tmp_path):
    config, weights = written(backbone_cfg(in_channels=channels), tmp_path)
    done = export_onnx(config, weights, tmp_path / 'backbone.onnx', shape=(64, 64), dynamic=[])
    assert list(done.differences) == [(1, channels, 64, 64)]


def test_a_detector_with_swapped_activations_is_exported(tmp_path):
    cfg = backbone_cfg()
    any_detector = Config.fromfile(ROOT / 'configs/any_detector/retinanet_r50_aglu.py').model
    cfg.model = dict(any_detector.to_dict(), neck=cfg.model.neck, bbox_head=cfg.model.bbox_head)
    cfg.model.backbone = dict(cfg.model.backbone, init_cfg=None, **NARROW)
    config, weights = written(cfg, tmp_path)
    done = export_onnx(config, weights, tmp_path / 'maps.onnx', part='detector', shape=SIZE)
    assert len(done.outputs) == 10 and done.outputs[5].startswith('bbox_preds_0 (batch, 36,')
    assert len([node for node in onnx.load(done.path).graph.node if node.op_type == 'Softplus']) == 9, 'not AGLU'


def test_calibrated_scores_are_exported_for_the_classes_of_the_checkpoint(tmp_path):
    cfg = backbone_cfg('ReLU')
    stats = dict(image_count=[3 * i + 1 for i in range(48)], fractal_dimension=[1.5] * 48, names=CLASSES[::-1])
    cfg.model.bbox_head.update(
        type='CalibrateScores', module=dict(type='RetinaHead'), calibration=dict(type='FRACAL', stats=stats)
    )
    config, weights = written(cfg, tmp_path)
    done = export_onnx(config, weights, tmp_path / 'maps.onnx', part='detector', shape=SIZE, dynamic=[])
    image = np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32)
    model = build(Config.fromfile(config), config)
    load_weights(model, Path(weights))
    maps = model.extract_feat(torch.from_numpy(image))
    raw = model.bbox_head.forward(maps)[0][0]
    x = raw.view(9, 48, -1).double()
    counts = torch.tensor([3 * i + 1 for i in range(47, -1, -1)]).double()
    f, share = counts / counts.sum(), 1 / 48
    shift = (-f.log10() - 2 * np.log10(48) - np.log10(share))[:, None]
    want = (x.sigmoid() * (x + shift).sigmoid()).view(raw.shape)
    got = torch.from_numpy(run(done.path, image=image)['cls_scores_0']).double().sigmoid()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-9)


@pytest.fixture(scope='module')
def mask_rcnn(tmp_path_factory):
    """Config, weights and, exported by the tool, the ONNX file of the narrowed Mask R-CNN with AGLU, APA, GOL and CARAFE."""
    folder = tmp_path_factory.mktemp('mask_rcnn')
    config, weights = written(detector_cfg(folder), folder)
    return config, weights, folder / 'detector.onnx'


def test_the_example_of_the_docs_gives_mmdets_mask_rcnn_predictions(mask_rcnn, monkeypatch, capsys):
    config, weights, path = mask_rcnn
    done = tool(config, weights, '--part', 'detector', '--shape', *SIZE, '--out', path, monkeypatch=monkeypatch)
    output = capsys.readouterr()
    assert done is None and 'masks' in output.out and 'check 1x3x96x128' in output.err
    assert re.search(r'written: \S+detector.onnx, [\d.]+ MB, opset 17; image \(1, 3, height, width\), .*', output.out)
    monkeypatch.chdir(path.parent)
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8), (140, 180))
    cv2.imwrite('image.jpg', image)
    snippet = example_with('InferenceSession')
    example = {}
    exec(snippet, example)
    assert example['metadata']['classes'] == CLASSES and 'class ' in capsys.readouterr().out

    cfg = Config.fromfile(config)
    resize = next(step for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Resize')
    resize.scale = (160, 160)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).eval()
    load_weights(model, Path(weights))
    model.cfg = cfg
    want = inference_detector(model, 'image.jpg').pred_instances
    assert len(want) == 50 == len(example['boxes'])
    assert example['labels'].tolist() == want.labels.tolist() and len(set(want.labels.tolist())) > 1
    assert abs(example['boxes'] - want.bboxes.numpy()).max() < 1e-3
    assert abs(example['scores'] - want.scores.numpy()).max() < 1e-5
    wrong = (np.stack(example['pasted']) != want.masks.numpy()).sum((1, 2))
    assert wrong.mean() <= 1 and want.masks.flatten(1).any(1).any()


def test_faster_rcnn_with_class_specific_boxes_and_softmax_matches_mmdet(tmp_path):
    cfg = detector_cfg(tmp_path)
    cfg.model.type = 'FasterRCNN'
    cfg.model.backbone.type = 'ResNet'
    head = cfg.model.roi_head
    del head['mask_head'], head['mask_roi_extractor']
    head.bbox_head.reg_class_agnostic = False
    head.bbox_head.loss_cls = dict(type='CrossEntropyLoss')
    cfg.model.test_cfg.rcnn.score_thr = 0.0205
    config, weights = written(cfg, tmp_path)
    done = export_onnx(config, weights, tmp_path / 'a.onnx', part='detector', shape=SIZE, dynamic=())
    assert done.outputs == ['boxes (detections, 4)', 'scores (detections)', 'labels (detections)']
    model = build(Config.fromfile(config), config)
    load_weights(model, Path(weights))
    image = nn.functional.interpolate(torch.randn(1, 3, 12, 16), SIZE)
    sample = DetDataSample(metainfo=dict(img_shape=(90, 120), ori_shape=(90, 120), scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        (want,) = model.predict(image, [sample])
    got = run(done.path, image=image.numpy(), image_shape=np.float32([90, 120]))
    want = want.pred_instances
    assert 0 < len(want) == len(got['boxes']) and got['labels'].tolist() == want.labels.tolist()
    assert abs(got['boxes'] - want.bboxes.numpy()).max() < 1e-3
    assert abs(got['scores'] - want.scores.numpy()).max() < 1e-5


def test_an_image_without_detections_gives_empty_outputs(mask_rcnn, tmp_path):
    config, weights, _ = mask_rcnn
    options = {'model.test_cfg.rcnn.score_thr': 0.99999}
    done = export_onnx(config, weights, tmp_path / 'a.onnx', 'detector', SIZE, (), cfg_options=options)
    shape = (1, 3, *SIZE)
    checked = {d.tensor: d.shape for d in done.differences[shape]}
    assert checked['masks'][0] > 0, 'the masks of no detection were checked'
    got = run(done.path, image=np.zeros(shape, np.float32), image_shape=np.float32(SIZE))
    assert {name: tensor.shape for name, tensor in got.items()} == dict(
        boxes=(0, 4), scores=(0,), labels=(0,), masks=(0, 28, 28)
    )


@MODELS.register_module()
class Inverse(nn.Module):
    """A matrix inverse, for which ONNX has no operator."""

    def forward(self, x):
        return [torch.linalg.inv(x + 9 * torch.eye(x.shape[3]))]


def test_an_operator_that_onnx_lacks_is_named_in_the_error(tmp_path, monkeypatch):
    cfg = backbone_cfg()
    cfg.model.backbone, cfg.model.neck = dict(type='Inverse'), None
    config, _ = written(cfg, tmp_path)
    line = tool(config, '--shape', 64, 64, '--out', tmp_path / 'a.onnx', monkeypatch=monkeypatch)
    assert line.startswith('export_onnx: torch cannot record the graph') and 'linalg_inv' in line and '\n' not in line


@MODELS.register_module()
class SizeInPython(nn.Module):
    """A map divided by a height, which the exporter records as a constant."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4)

    def forward(self, x):
        return [self.conv(x) / float(x.shape[2])]


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_graph_that_differs_from_pytorch_is_not_written(tmp_path):
    cfg = backbone_cfg()
    cfg.model.backbone, cfg.model.neck = dict(type='SizeInPython'), None
    config, weights = written(cfg, tmp_path)
    out = tmp_path / 'a.onnx'
    with pytest.raises(CodedError, match='differ in p2 by .* for images 2x3x.*--dynamic with no value') as error:
        export_onnx(config, weights, out, shape=SIZE)
    assert error.value.code == 'other-results'
    assert not out.exists()
    export_onnx(config, weights, out, shape=SIZE, dynamic=('batch',))
    assert out.exists()


def config_of(name):
    def cfg(tmp_path):
        found = Config.fromfile(ROOT / f'configs/{name}.py')
        found.model.backbone.init_cfg = None
        for head in found.model.get('roi_head', {}).get('bbox_head', []):
            head.num_classes = 4
        return found

    return cfg


def deformable(tmp_path):
    dcn = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
    cfg = backbone_cfg(type='ResNet', depth=50, dcn=dcn, stage_with_dcn=(False, True))
    del cfg.model.backbone['act_cfg']
    cfg.model.neck.in_channels = [32, 64]
    return cfg


def soft_nms(tmp_path):
    return detector_cfg(tmp_path, **{'model.test_cfg.rcnn.nms.type': 'soft_nms'})


@pytest.mark.parametrize(
    'cfg, part, code, name',
    [
        (config_of('any_detector/dino_r50_aglu'), 'detector', 'unsupported-detector', 'DINO'),
        (config_of('v3det/cascade_rcnn_se_r50_apa_v3det'), 'detector', 'changed-method', 'predict_bbox'),
        (deformable, 'backbone', 'unsupported-layer', 'layer2.0.conv2'),
        (soft_nms, 'detector', 'unsupported-setting', 'test_cfg.rcnn.nms'),
    ],
    ids=['DETR', 'cascade', 'deformable', 'soft NMS'],
)
def test_a_model_that_cannot_be_exported_is_rejected_with_its_part(cfg, part, code, name, tmp_path):
    path = tmp_path / 'config.py'
    cfg(tmp_path).dump(str(path))
    with pytest.raises(NotExportable) as raised:
        export_onnx(str(path), None, tmp_path / 'a.onnx', part)
    assert raised.value.code == code and name in str(raised.value)
    assert not (tmp_path / 'a.onnx').exists()


@pytest.mark.parametrize(
    'options, code',
    [(dict(dynamic=('batch',)), 'one-image-only'), (dict(exporter='dynamo', shape=(64, 64)), 'torchscript-only')],
)
def test_options_that_a_two_stage_detector_excludes_are_rejected(options, code, mask_rcnn, tmp_path):
    config, weights, _ = mask_rcnn
    with pytest.raises(NotExportable) as raised:
        export_onnx(config, weights, tmp_path / 'a.onnx', 'detector', **options)
    assert raised.value.code == code


def test_user_errors_end_the_tool_with_one_line(mask_rcnn, tmp_path, monkeypatch):
    config, weights, _ = mask_rcnn
    mark = tmp_path / 'mark'

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    torch.save(dict(state_dict=dict(a=torch.ones(1)), x=Runs()), tmp_path / 'evil.pth')
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.ones(1)}), tmp_path / 'other.pth')
    (tmp_path / 'empty.py').write_text('a = 1\n')
    for text, *args in (
        ('no such file', 'missing.py'),
        ('missing: ', config, tmp_path / 'missing.pth'),
        ('has no model; use the config of a detector', tmp_path / 'empty.py'),
        ('other.pth does not fit the backbone: ', config, tmp_path / 'other.pth'),
        ('mkdir', config, tmp_path / 'evil.pth'),
        ('remove batch from --dynamic', config, weights, '--part', 'detector', '--dynamic', 'batch'),
        ('weights.pth is what is read', config, weights, '--out', weights),
    ):
        line = tool('--out', tmp_path / 'a.onnx', *args, monkeypatch=monkeypatch)
        assert line.startswith('export_onnx: ') and text in line and '\n' not in line, line
    assert not mark.exists() and not (tmp_path / 'a.onnx').exists()


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def in_onnx(function, *args, axes, path, opset=17):
    """Exports a function; returns it as run by onnxruntime, for any arguments."""
    old = dict(dynamo=False) if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    names = list('abc'[: len(args)])
    torch.onnx.export(Call(function), args, str(path), input_names=names, dynamic_axes=axes, opset_version=opset, **old)
    session = onnxruntime.InferenceSession(str(path))
    return lambda *others: session.run(None, {name: t.numpy() for name, t in zip(names, others)})


def test_topk_ranks_equal_scores_by_index(tmp_path):
    scores = torch.randint(0, 9, (300,)).float()
    ranked = in_onnx(lambda t: topk(t, 100), scores, axes=dict(a={0: 'n'}), path=tmp_path / 'a.onnx')
    for other in (scores, scores[:50], scores[:0]):
        for got, want in zip(ranked(other), topk(other, 100)):
            assert got.tolist() == want.tolist()


@pytest.mark.parametrize('groups, classes', [(1, 5), (5, 1)])
def test_nms_of_groups_and_classes_matches_onnxruntime(groups, classes, tmp_path):
    def example(n):
        corner = torch.rand(groups, n, 2) * 60
        boxes = torch.cat([corner, corner + torch.rand(groups, n, 2) * 40], 2)
        return boxes, torch.rand(groups, classes, n).mul(20).round() / 20  # some are equal

    def suppressed(boxes, scores):
        return nms(boxes, scores, 7, 0.4, 0.25)

    axes = dict(a={1: 'n'}, b={2: 'n'})
    in_ort = in_onnx(suppressed, *example(30), axes=axes, path=tmp_path / 'a.onnx')
    for n in (30, 80, 0):
        boxes, scores = example(n)
        (got,) = in_ort(boxes, scores)
        assert got.tolist() == suppressed(boxes, scores).tolist()
        assert n < 80 or len(got) == 35


@pytest.mark.parametrize('samples', [0, 2])
def test_roi_align_matches_mmcv(samples, tmp_path):
    feature, rois = torch.randn(1, 3, 20, 30), torch.rand(9, 4) * 50 - 10
    rois[:, 2:] = rois[:, :2] + torch.rand(9, 2) * 80

    def aligned(feature, rois):
        return roi_align(feature, rois, (7, 5), 0.25, samples)

    in_ort = in_onnx(aligned, feature, rois, axes=dict(a={2: 'h'}, b={0: 'r'}), path=tmp_path / 'a.onnx')
    want = mmcv.ops.roi_align(feature, torch.cat([torch.zeros(9, 1), rois], 1), (7, 5), 0.25, samples, 'avg', True)
    assert abs(in_ort(feature, rois)[0] - want.numpy()).max() < 1e-5
    assert in_ort(feature, rois[:0])[0].shape == (0, 3, 7, 5)


def test_a_model_without_a_backbone_is_rejected():
    with pytest.raises(NotExportable) as raised:
        build(Config(dict(model=dict(type='mmdet.DetDataPreprocessor'))), 'config.py')
    assert raised.value.code == 'no-backbone'


def example_with(word):
    """The example in the documentation that has this word."""
    examples = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/deploy.md').read_text(), re.S)
    (found,) = (text for text in examples if word in text)
    return found


def test_in_half_precision_the_example_of_the_docs_keeps_the_activations_in_float32(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, weights = written(backbone_cfg(), tmp_path)
    export_onnx(config, weights, tmp_path / 'backbone.onnx', shape=SIZE)
    exec(example_with('DEFAULT_OP_BLOCK_LIST'), {})
    converted = onnx.shape_inference.infer_shapes(onnx.load('backbone_float16.onnx'))
    graph = converted.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    for kind, expected in (('Softplus', 'FLOAT'), ('Div', 'FLOAT'), ('Exp', 'FLOAT'), ('Conv', 'FLOAT16')):
        found = [types[node.output[0]] for node in graph.node if node.op_type == kind and node.output[0] in types]
        assert len(found) > 3 and set(found) == {getattr(onnx.TensorProto, expected)}, kind
    image = np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32)
    half, whole = (run(f'{name}.onnx', image=image) for name in ('backbone_float16', 'backbone'))
    assert all(np.abs(half[name] - whole[name]).max() < 0.01 * np.abs(whole[name]).max() for name in whole)


@pytest.mark.slow
def test_the_example_of_the_docs_traces_a_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(example_with('torch.jit.trace'), {})
    assert [m.shape[1] for m in torch.jit.load('backbone.pt')(torch.zeros(2, 3, 32, 64))] == [64, 128, 256, 512]


@pytest.mark.slow
def test_the_dynamo_exporter_records_a_backbone(tmp_path):
    config, weights = written(backbone_cfg(), tmp_path)
    done = export_onnx(config, weights, tmp_path / 'a.onnx', shape=SIZE, exporter='dynamo', opset=18)
    assert len(done.outputs) == 5 and run(done.path, image=np.zeros((2, 3, 64, 64), np.float32))['p2'].shape[0] == 2
