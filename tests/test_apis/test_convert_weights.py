"""Official weights under our names and back, against an independent mapping and the official lists of keys."""

import argparse
import json
import re
import runpy
import sys
import zlib

import pytest
import torch
from helpers.paths import ROOT
from helpers.programs import fork_program, start_program, succeed
from helpers.recordings import DATA, image, load, value
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from apa_mmdet.apis.convert_weights import NotConvertible, convert_file
from apa_mmdet.checkpoint.class_names import recorded_classes
from apa_mmdet.checkpoint.compare import WrongWeights, check_fit
from apa_mmdet.checkpoint.io import read_checkpoint
from apa_mmdet.checkpoint.official_names import convert_official_state_dict, translate_names
from apa_mmdet.models.backbones import SEResNet, SEResNeXt
from apa_mmdet.utils.config import BadConfig
from apa_mmdet.utils.errors import CodedError

TOOL = ROOT / 'tools/convert_official_weights.py'
BASELINE = dict(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))
BACKBONES = dict(
    se_resnet50=dict(type='SEResNet', depth=50),
    se_resnet101=dict(type='SEResNet', depth=101),
    se_resnet50_relu_sigmoid=dict(type='SEResNet', depth=50, **BASELINE),
)
R50, R101 = 'configs/lvis/mask_rcnn_se_r50_apa.py', 'configs/lvis/mask_rcnn_se_r101_apa.py'
TINY, TINY_RELU = 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py', 'configs/tiny_lvis/mask_rcnn_se_r18_relu_softmax.py'
DETECTORS = dict(
    lvis_mask_rcnn_se_r50_detector=R50,
    lvis_mask_rcnn_se_r101_detector=R101,
    v3det_faster_rcnn_se_r50_detector='configs/v3det/faster_rcnn_se_r50_apa_v3det.py',
    v3det_cascade_rcnn_se_r50_detector='configs/v3det/cascade_rcnn_se_r50_apa_v3det.py',
)


def official_name(ours, basic_block=False):
    """Our name of a parameter → the official one, by replacement of its parts."""
    out = 'unirect2.' if basic_block else 'unirect3.'
    for part, theirs in (
        ('act_stem.', 'relu.'),
        ('act_conv1.', 'unirect1.'),
        ('act_conv2.', 'unirect2.'),
        ('act_out.', out),
        ('se.fc1.', 'se.excitation.0.'),
        ('se.fc2.', 'se.excitation.2.'),
        ('se.gate.', 'se.uniact.'),
        ('conv_logits.temperature', 'conv_logits.tempearture'),
        ('fc_cls.scale', 'fc_cls.s_'),
    ):
        ours = ours.replace(part, theirs)
    return (
        ours[: -len('lambda_')] + 'lambda_param' if ours.endswith('lambda_') else ours.replace('.kappa', '.kappa_param')
    )


def marked(shapes):
    """Weights of these shapes that take no memory, with a value for each name."""
    return {
        name: torch.tensor(
            zlib.crc32(name.encode()) % 10007, dtype=torch.int64 if name.endswith('tracked') else torch.float32
        ).expand(tuple(shape))
        for name, shape in shapes.items()
    }


def keys(name):
    return json.loads((DATA / f'{name}_keys.json').read_text())


def official_from(net, basic_block=False):
    return marked({official_name(name, basic_block): tensor.shape for name, tensor in net.state_dict().items()})


def build(cfg, device='meta'):
    with torch.device(device), DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def model_for(name):
    return build(Config.fromfile(ROOT / DETECTORS[name]).model if name in DETECTORS else BACKBONES[name])


def same(a, b):
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def saved(content, path, **kwargs):
    torch.save(content, path, **kwargs)
    return path


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A official classification checkpoint of depth 18."""
    weights = {
        **official_from(build(dict(type='SEResNet', depth=18)), True),
        **marked({'fc.weight': (1000, 512), 'fc.bias': (1000,)}),
    }
    return saved(dict(model=weights), tmp_path_factory.mktemp('small') / 'r18.pth')


# ---------------------------------------------------------------- names


@pytest.mark.parametrize('name', [*BACKBONES, *DETECTORS])
def test_every_official_key_becomes_the_models_and_comes_back(name):
    official, model = marked(keys(name)), model_for(name)
    ours = convert_official_state_dict(official)
    model.load_state_dict(ours, strict=True, assign=True)
    for key, tensor in ours.items():
        assert torch.equal(tensor, official[official_name(key)]), key
    back = {theirs: ours[key] for key, theirs in translate_names(ours, to_official=True).items()}
    assert same(back, official)
    assert same(convert_official_state_dict(back), ours)
    assert convert_official_state_dict(ours).keys() == ours.keys(), 'ours changes'


def test_the_names_of_basic_blocks_and_of_the_learnable_scale():
    names = [
        'layer2.1.unirect2.kappa_param',
        'roi_head.bbox_head.2.fc_cls.s_',
        'roi_head.scales.0.scale',
        'layer2.1.conv2.weight',
    ]
    assert list(translate_names(names).values()) == [
        'layer2.1.act_out.kappa',
        'roi_head.bbox_head.2.fc_cls.scale',
        *names[2:],
    ]
    assert list(translate_names(translate_names(names).values(), to_official=True).values()) == names


def test_names_that_are_partly_official_partly_ours_are_refused():
    with pytest.raises(
        CodedError, match='relu.kappa_param and act_stem.kappa would both become act_stem.kappa'
    ) as error:
        translate_names(['relu.kappa_param', 'act_stem.kappa'])
    assert error.value.code == 'mixed-names'


# ---------------------------------------------------------------- backbones


def test_a_converted_backbone_computes_what_the_official_one_does(tmp_path):
    name = 'se_resnet50'
    weights = {key: torch.from_numpy(value(key, shape)) for key, shape in keys(name).items()}
    source = saved(
        dict(model={**weights, 'fc.weight': torch.zeros(1000, 2048), 'fc.bias': torch.zeros(1000)}), tmp_path / 'in.pth'
    )
    target = tmp_path / 'pretrained/out.pth'
    report = convert_file(source, target)
    assert 'missing               0\n' in report and 'fc.weight' in report
    net = build(dict(BACKBONES[name], init_cfg=dict(type='Pretrained', checkpoint=str(target)))).to_empty(device='cpu')
    net.init_weights()
    features = net.eval()(torch.from_numpy(image((2, 3, 64, 96))))
    recorded = load(f'{name}.npz')
    for i, feature in enumerate(features):
        want = torch.from_numpy(recorded[f'feat{i}'])
        torch.testing.assert_close(
            feature[:, :, ::4, ::4] if i < 2 else feature, want, rtol=1e-4, atol=1e-4 * want.abs().max().item()
        )


@pytest.mark.parametrize(
    'net', [SEResNet(18), SEResNet(34, **BASELINE), SEResNeXt(50)], ids=['18', '34 baseline', 'ResNeXt-50']
)
def test_the_backbone_is_told_from_its_weights_and_round_trips(net, tmp_path):
    weights = official_from(net, basic_block=net.depth < 50)
    source = saved(dict(model=weights), tmp_path / 'official.pth')
    assert f"type='{type(net).__name__}', depth={net.depth}" in convert_file(source, tmp_path / 'ours.pth')
    net.load_state_dict(torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict'], strict=True)
    report = convert_file(tmp_path / 'ours.pth', tmp_path / 'back.pth', to_official=True)
    assert 'without a classifier' in report
    assert same(torch.load(tmp_path / 'back.pth', weights_only=True)['model'], weights)


def test_a_training_checkpoint_in_either_format_of_torch(small, tmp_path):
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    schedulers = [
        torch.optim.lr_scheduler.LinearLR(optimizer),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9),
    ]
    net(torch.ones(1)).backward()
    optimizer.step()
    content = dict(
        torch.load(small, weights_only=True),
        optimizer=optimizer.state_dict(),
        epoch=3,
        args=argparse.Namespace(lr=0.1, amp=True),
        lr_scheduler=torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, [2]).state_dict(),
    )
    for zipped in (True, False):
        source = saved(content, tmp_path / 'in.pth', _use_new_zipfile_serialization=zipped)
        report = convert_file(source, tmp_path / 'out.pth', force=True)
        dropped = report.split('dropped')[1].split('missing')[0].split()
        assert dropped == ['6', 'fc.weight', 'fc.bias', 'optimizer', 'epoch', 'args', 'lr_scheduler']
        assert (
            torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'].keys() == SEResNet(18).state_dict().keys()
        )


# ---------------------------------------------------------------- detectors


def test_a_detection_checkpoint_loads_strictly_and_round_trips(tmp_path):
    name = 'lvis_mask_rcnn_se_r50_detector'
    official = marked(keys(name))
    hub = MessageHub.get_instance(name)
    hub.update_scalar('train/loss', 1.0)
    meta = dict(cfg='model = …', epoch=24, dataset_meta=dict(classes=('a', 'b')), hook_msgs=argparse.Namespace())
    source = saved(
        dict(meta=meta, state_dict=official, message_hub=hub.state_dict(), optimizer={}), tmp_path / 'in.pth'
    )
    ours = tmp_path / 'ours.pth'
    report = convert_file(source, ours, config=str(ROOT / DETECTORS[name]))
    assert report.split('dropped')[1].split('missing')[0].split() == [
        '4',
        'message_hub',
        'optimizer',
        'meta.cfg',
        'meta.hook_msgs',
    ]
    model = model_for(name).to_empty(device='cpu')
    loaded = load_checkpoint(model, str(ours), strict=True)
    assert loaded['meta'] == dict(epoch=24, dataset_meta=dict(classes=('a', 'b')))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, official[official_name(key)]), key
    convert_file(ours, tmp_path / 'back.pth', config=str(ROOT / DETECTORS[name]), to_official=True)
    assert same(torch.load(tmp_path / 'back.pth', weights_only=True)['state_dict'], official)


def plain(name):
    """The official names and shapes of a detector on a plain ResNet: the same without attention and activations."""
    added = re.compile(r'backbone\.(relu\.|.*\.(se|unirect\d)\.)')
    return {key: shape for key, shape in keys(name).items() if not added.match(key)}


GOL = {
    'configs/lvis/mask_rcnn_r50_gol.py': ('lvis_mask_rcnn_se_r50_detector', 1203),
    'configs/lvis/mask_rcnn_r101_gol.py': ('lvis_mask_rcnn_se_r101_detector', 1203),
    'configs/lvis/mask_rcnn_r50_gol_lvis-v0.5.py': ('lvis_mask_rcnn_se_r50_detector', 1230),
}


@pytest.mark.parametrize('config', GOL)
def test_detectors_of_gol_have_the_official_names(config):
    name, classes = GOL[config]
    # the mask head of all three is that of the official R101, a deconvolution and a fixed temperature
    official = {key: shape for key, shape in plain(name).items() if '.mask_head.' not in key}
    heads = plain('lvis_mask_rcnn_se_r101_detector')
    official.update({key: shape for key, shape in heads.items() if '.mask_head.' in key})
    sizes = {1203: classes, 4 * 1203: 4 * classes}
    official = {key: [sizes.get(shape[0], shape[0]), *shape[1:]] if shape else shape for key, shape in official.items()}
    model = build(Config.fromfile(ROOT / config).model)
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == official
    assert {*translate_names(official).items()} == {(key, key) for key in official}


def test_a_checkpoint_of_mmdet_2_is_read_as_it_is(tmp_path):
    """GOL's; of classes its ``meta`` says CLASSES."""
    model, weights = (
        build(Config.fromfile(ROOT / next(iter(GOL))).model),
        marked(plain('lvis_mask_rcnn_se_r50_detector')),
    )
    heads = marked(plain('lvis_mask_rcnn_se_r101_detector'))
    weights = {name: heads.get(name, weights.get(name)) for name in model.state_dict()}
    classes = tuple(f'class {i}' for i in range(1203))
    meta = dict(env_info='sys.platform: linux', seed=None, epoch=24, iter=1, hook_msgs={}, mmdet_version='2.21.0')
    content = dict(meta=dict(meta, CLASSES=classes, PALETTE=None), state_dict=weights, optimizer=dict(state={}))
    source = saved(content, tmp_path / 'gol.pth', _use_new_zipfile_serialization=False)  # torch 1.7
    found, _, meta, _ = read_checkpoint(source)
    check_fit(found, model.state_dict(), str(source), 'the config', ignore=('type',))  # on no device
    assert same(found, weights) and recorded_classes(meta) == classes


def test_a_detection_checkpoint_needs_its_config(tmp_path):
    source = saved(dict(state_dict=marked(keys('lvis_mask_rcnn_se_r50_detector'))), tmp_path / 'in.pth')
    with pytest.raises(
        NotConvertible, match=r'in.pth is a detection checkpoint; name the config of its model with --config$'
    ) as refused:
        convert_file(source, tmp_path / 'out.pth')
    assert refused.value.code == 'needs-config'


@pytest.mark.parametrize(
    'name, config, code, line',
    [
        (
            'lvis_mask_rcnn_se_r50_detector',
            'configs/coco/mask_rcnn_se_r50_apa_1x_coco.py',
            'other-classes',
            "its classifier has 1203 outputs, the model's 81: ",
        ),
        ('se_resnet50', TINY, 'other-depth', 'the checkpoint is a ResNet-50, the model a ResNet-18: '),
    ],
)
def test_weights_for_another_config(name, config, code, line, tmp_path):
    source = saved(dict(state_dict=marked(keys(name))), tmp_path / 'in.pth')
    with pytest.raises(WrongWeights, match=line) as caught:
        convert_file(source, tmp_path / 'out.pth', config=str(ROOT / config))
    assert caught.value.code == code and '\n' not in str(caught.value) and not list(tmp_path.glob('out*'))


def test_learnable_activations_for_a_config_without(small, tmp_path):
    line = rf'r18.pth does not fit the backbone of {ROOT / TINY_RELU}: the model has no learnable activations: weights \d+ unexpected, first act_stem'
    with pytest.raises(WrongWeights, match=line):
        convert_file(small, tmp_path / 'out.pth', config=str(ROOT / TINY_RELU))


def test_the_report_lists_what_is_wrong(small, tmp_path):
    weights = dict(torch.load(small, weights_only=True)['model'])
    del weights['layer2.0.bn1.weight'], weights['layer3.0.bn1.weight'], weights['layer3.1.bn1.weight']
    weights.update(strange=torch.zeros(1), **{'conv1.weight': torch.zeros(64, 4, 7, 7)})
    source = saved(dict(model=weights), tmp_path / 'in.pth')
    with pytest.raises(
        WrongWeights, match='weights 3 missing, 1 of another shape, 1 unexpected, first layer2.0.bn1.weight; use'
    ) as caught:
        convert_file(source, tmp_path / 'out.pth')
    assert {key: len(names) for key, names in caught.value.differences.items() if names} == {
        'missing': 3,
        'shape': 1,
        'unexpected': 1,
    }
    lines = [' '.join(line.split()) for line in caught.value.report.splitlines()]
    for line in (
        'relu.lambda_param → act_stem.lambda_',
        'fc.bias',
        'missing 3',
        'layer*.*.bn1.weight (layer2.0, layer3.0-1)',
        'of another shape 1',
        'conv1.weight: (64, 4, 7, 7), not (64, 3, 7, 7)',
        'unexpected 1',
        'strange',
        'layer*.*.unirect2.kappa_param → layer*.*.act_out.kappa (layer1.0-1, layer2.0-1, layer3.0-1, layer4.0-1)',
    ):
        assert line in lines
    assert not list(tmp_path.glob('out*'))


# ---------------------------------------------------------------- what is not to be converted


@pytest.mark.parametrize(
    'weights, line',
    [
        (
            {'conv1.weight': torch.zeros(64, 3, 7, 7)},
            r'the weights, conv1.weight …, are not those of the blocks, .* of a ResNet of depth \[18, 34, 50, 101, 152\]; name the config',
        ),
        (
            {'conv1.weight': 3},
            "holds no weights, neither at its top level nor under `model` or `state_dict`; 'conv1.weight' is not the name of a tensor$",
        ),
        ({}, 'holds no weights'),
    ],
)
def test_weights_of_something_else(weights, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        convert_file(saved(dict(model=weights), tmp_path / 'in.pth'), tmp_path / 'out.pth')


def test_weights_of_a_plain_resnet(tmp_path):
    plain = build(dict(type='mmdet.ResNet', depth=50)).state_dict()
    source = saved(marked({name: tensor.shape for name, tensor in plain.items()}), tmp_path / 'in.pth')
    with pytest.raises(
        WrongWeights,
        match='the checkpoint has no squeeze and excitation: weights 32 missing, first layer1.0.se.fc1.wei',
    ) as refused:
        convert_file(source, tmp_path / 'out.pth')
    assert refused.value.code == 'other-attention'


def test_a_config_that_is_not_a_detectors(small, tmp_path):
    with pytest.raises(
        BadConfig, match='default_runtime.py has no model.backbone; use the config of a detector$'
    ) as refused:
        convert_file(small, tmp_path / 'out.pth', config=str(ROOT / 'configs/_base_/default_runtime.py'))
    assert refused.value.code == 'no-detector'


@pytest.mark.parametrize(
    'text, code, line',
    [
        (
            "model = dict(backbone=dict(type='NoNet'))",
            'not-buildable',
            r'config .*c.py: its model cannot be built: KeyError: .*NoNet is not in the',
        ),
        ("model = dict(backbone=dict(type='SEResNet', dpth=3))", 'not-buildable', 'cannot be built: TypeError: '),
        ('model = dict(', 'broken', 'config .*c.py: SyntaxError: '),
        (None, 'not-found', 'config .*c.py: no such file$'),
    ],
)
def test_a_broken_config(text, code, line, small, tmp_path):
    if text:
        (tmp_path / 'c.py').write_text(text)
    with pytest.raises(BadConfig, match=line) as caught:
        convert_file(str(small), str(tmp_path / 'out.pth'), str(tmp_path / 'c.py'))
    assert caught.value.code == code and '\n' not in str(caught.value)


def test_the_wrong_direction(small, tmp_path):
    with pytest.raises(NotConvertible, match='r18.pth has the official names already; omit --to-official$') as refused:
        convert_file(small, tmp_path / 'ours.pth', to_official=True)
    assert refused.value.code == 'wrong-direction'
    convert_file(small, tmp_path / 'ours.pth')
    with pytest.raises(
        NotConvertible,
        match='ours.pth has our names already and needs no conversion; --to-official goes the other way$',
    ):
        convert_file(tmp_path / 'ours.pth', tmp_path / 'again.pth')


def test_an_official_file_used_as_pretrained_weights_says_how_to_convert_it(small, tmp_path):
    source = saved(dict(torch.load(small, weights_only=True), args=argparse.Namespace(lr=0.1)), tmp_path / 'in.pth')
    net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(source)))
    with pytest.raises(ValueError, match='holds no weights, .*; tools/convert_official_weights.py converts official'):
        net.init_weights()


def test_nothing_is_overwritten_unasked(small, tmp_path):
    target = saved(3, tmp_path / 'out.pth')
    with pytest.raises(
        FileExistsError, match='out.pth exists already; name another file, or overwrite it with --force$'
    ):
        convert_file(small, target)
    with pytest.raises(FileExistsError, match='r18.pth is what is read; name another file for the result$'):
        convert_file(small, small, force=True)
    convert_file(small, target, force=True)
    assert list(tmp_path.iterdir()) == [target] and 'state_dict' in torch.load(target, weights_only=True)


# ---------------------------------------------------------------- the tool


def test_the_tool_as_a_process(small, tmp_path):
    run = start_program(TOOL, small, tmp_path / 'out.pth')
    assert run.returncode == 0, run.stderr
    assert 'written: ' in run.stdout and "dict(type='SEResNet', depth=18)" in run.stdout
    net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth')))
    net.init_weights()
    assert (
        net.layer4[1].act_out.kappa.item()
        == marked({'layer4.1.unirect2.kappa_param': (1,)})['layer4.1.unirect2.kappa_param'].item()
    )


def test_the_tool_with_a_detector_of_another_depth_as_a_process(tmp_path):
    source = saved(dict(state_dict=marked(keys('lvis_mask_rcnn_se_r101_detector'))), tmp_path / 'in.pth')
    run = fork_program(TOOL, source, tmp_path / 'out.pth', '--config', ROOT / R50)
    assert run.returncode == 1 and not (tmp_path / 'out.pth').exists()
    assert 'convert_official_weights: ' in run.stderr.splitlines()[-1] and 'Traceback' not in run.stderr
    assert 'the checkpoint is a ResNet-101, the model a ResNet-50' in run.stderr.splitlines()[-1]
    assert 'backbone.layer*.*.conv1.weight  (layer3.6-22)' in run.stdout


def test_the_tool_with_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, 'argv', ['convert_official_weights.py', str(tmp_path / 'nowhere.pth'), str(tmp_path / 'out.pth')]
    )
    with pytest.raises(SystemExit, match='convert_official_weights: missing: .*nowhere.pth$'):
        runpy.run_path(str(TOOL), run_name='__main__')


@pytest.mark.slow
def test_tools_test_evaluates_a_converted_detector(tmp_path, tiny_data):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/lvis_v1').symlink_to(tiny_data('lvis_v1', train=4, val=2, size=(96, 64)))
    weights = {
        name: torch.from_numpy(value(name, shape)) for name, shape in keys('lvis_mask_rcnn_se_r50_detector').items()
    }
    saved(dict(state_dict=weights), tmp_path / 'official.pth')
    for command in (
        [TOOL, 'official.pth', 'ours.pth', '--config', ROOT / R50],
        [ROOT / 'tools/test.py', ROOT / R50, 'ours.pth', '--cfg-options', 'model.test_cfg.rcnn.max_per_img=20'],
    ):
        said = succeed(fork_program(*command, cwd=tmp_path))
    assert 'Load checkpoint from apa_mmdet://ours.pth' in said and 'lvis/segm_APr' in said
    assert not re.search('unexpected key|missing key|size mismatch', said)
