"""Every config parses and builds, training recipes are the published ones, and a baseline is only its difference."""

import json
import re
from collections import Counter
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import tiny_images
from helpers.paths import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.losses import check_losses
from apa_mmdet.apis.launch_checks.metrics import check_metrics
from apa_mmdet.apis.launch_checks.options import check_options
from apa_mmdet.apis.launch_checks.validate_launch import check_launch
from apa_mmdet.datasets.tiny_lvis import vocabularies
from apa_mmdet.datasets.tiny_lvis.plan import planned_counts
from apa_mmdet.engine.runner.cpu_launcher import TIMEOUT
from apa_mmdet.models.activations import AGLU, APA, APALU, AconA, AconB, AconC, MetaAconC
from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack, LearnableNormedConv2d
from apa_mmdet.models.losses import DropLoss
from apa_mmdet.utils.config import leaves, model_parts
from apa_mmdet.utils.shorthand_options import spell_out

ALL_CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').glob('[!_]*/*.py'))
# those of classifiers are tested where MMPretrain is: tests/classification/test_configs.py
CONFIGS = [name for name in ALL_CONFIGS if name.split('/')[1] not in tiny_images.FOLDERS]
FLAGSHIP = 'configs/lvis/mask_rcnn_se_r50_apa.py'
TINY = 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
SMALL = 'configs/small_lvis/mask_rcnn_se_r18_apa_small-lvis.py'
PLAIN_AND_APA = ('r50', 'r50_gol'), ('se_r50_apa', 'se_r50_apa')  # in the names of baselines, and of what they vary
SMALL_LEAVES = [  # leaf, base, what differs in the backbone and in the box head
    ('relu_gol', 'apa', ['act_cfg', 'init_cfg', 'se_cfg'], []),
    ('apa_apa-link', 'apa', [], ['loss_cls']),
    *((f'{name}_softmax', base, [], ['init_cfg', 'loss_cls']) for name, base in (('apa', 'apa'), ('relu', 'relu_gol'))),
    *(
        (f'{name}_seesaw', base, [], ['cls_predictor_cfg', 'init_cfg', 'loss_cls'])
        for name, base in (('apa', 'apa'), ('relu', 'relu_gol'))
    ),
    *((f'{name}_seesaw', 'relu_seesaw', ['act_cfg', 'init_cfg'], []) for name in ('acon', 'apalu')),
]
LEARNABLE = {'acon': AconC, 'meta-acon': MetaAconC, 'apalu': APALU}


@cache
def parsed(name):
    return Config.fromfile(ROOT / name)


def load(name):
    return deepcopy(parsed(name))


def load_stock(name):
    return Config.fromstring(f"_base_ = 'mmdet::{name}'", '.py')


def build(cfg):
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


def test_no_two_configs_share_a_work_dir():
    """MMDetection's tools train into ``work_dirs/<stem>``, where ``--resume`` looks for the last checkpoint."""
    stems = Counter(Path(name).stem for name in ALL_CONFIGS)
    assert [stem for stem, count in stems.items() if count > 1] == []
    assert [name for name in CONFIGS if 'work_dir' in load(name)] == []


@pytest.mark.parametrize('folder', ['coco', 'v3det', 'small_lvis'])
def test_a_config_name_ends_in_its_data_set(folder):
    suffix = {'coco': r'_[12]x_coco', 'v3det': '_v3det', 'small_lvis': '_small-lvis'}[folder]
    names = [name for name in CONFIGS if name.startswith(f'configs/{folder}/')]
    assert names and [name for name in names if not re.search(rf'{suffix}\.py$', name)] == []


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_builds_a_model(name):
    cfg = load(name)
    assert cfg.custom_imports.imports == ['apa_mmdet'], 'the stock tools would not find the modules'
    with torch.device('cpu' if 'swin' in name else 'meta'):  # mmdet's Swin reads a number off a tensor
        build(cfg)


@pytest.mark.parametrize('name', [FLAGSHIP, TINY, 'configs/v3det/cascade_rcnn_se_r50_apa_v3det.py'])
def test_a_dumped_config_gives_the_same_model(name, tmp_path):
    cfg = load(name)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').model == cfg.model


def differences(a, b, path=''):
    """Dotted names of what two configs do not share."""
    if isinstance(a, dict) and isinstance(b, dict):
        return sorted(
            d for key in {*a, *b} for d in differences(a.get(key), b.get(key), f'{path}.{key}' if path else key)
        )
    return [] if a == b else [path]


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_has_our_hooks_and_a_resumable_loop(name):
    cfg, ours = load(name), Config.fromfile(ROOT / 'configs/_base_/apa_runtime.py').apa_hooks
    assert len(ours) == 5
    assert {key: cfg.default_hooks[key].type for key in ours} == {key: hook.type for key, hook in ours.items()}
    assert cfg.train_cfg.type == f'Resumable{"Iter" if "max_iters" in cfg.train_cfg else "Epoch"}BasedTrainLoop'


@pytest.mark.parametrize('name', CONFIGS)
def test_processes_wait_as_long_for_an_evaluation_on_gpus_as_on_cpus(name):
    assert load(name).env_cfg.dist_cfg == dict(backend='nccl', timeout=TIMEOUT.total_seconds())


def test_the_flagship_is_the_published_recipe():
    cfg = load(FLAGSHIP)
    assert cfg.train_dataloader.dataset.oversample_thr == 1e-3
    assert cfg.train_dataloader.dataset.type == 'ClassBalancedDataset' and cfg.train_dataloader.batch_size == 2
    assert (
        cfg.train_dataloader.dataset.dataset.type == 'SelectiveLVISV1Dataset'
        and cfg.auto_scale_lr.base_batch_size == 16
    )
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.02, 0.9, 1e-4)
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end, warmup.by_epoch) == ('LinearLR', 0.001, 500, False)
    assert (steps.type, steps.milestones, steps.gamma, cfg.train_cfg.max_epochs) == ('MultiStepLR', [16, 22], 0.1, 24)
    resize = cfg.train_dataloader.dataset.dataset.pipeline[2]
    assert resize.scales == [(1333, side) for side in range(640, 801, 32)]
    test = cfg.model.test_cfg.rcnn
    assert (test.score_thr, test.nms.iou_threshold, test.max_per_img, test.mask_thr_binary) == (1e-4, 0.3, 300, 0.4)
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.depth, backbone.frozen_stages, backbone.norm_eval) == ('SEResNet', 50, 1, True)


def test_lvis_is_evaluated_by_the_fast_metric():
    names = [
        name for name in CONFIGS if name.startswith(('configs/lvis/', 'configs/tiny_lvis/', 'configs/small_lvis/'))
    ]
    assert {FLAGSHIP, TINY, SMALL} <= {*names}
    for name in names:
        assert load(name).val_evaluator.type == load(name).test_evaluator.type == 'FastLVISMetric', name


def test_the_plain_networks_of_gol_are_the_published_recipe():
    flagship, cfg = load(FLAGSHIP), load('configs/lvis/mask_rcnn_r50_gol.py')
    stock = load_stock('_base_/models/mask-rcnn_r50_fpn.py').model
    assert cfg.model.backbone == stock.backbone and cfg.model.neck == stock.neck
    assert cfg.model.roi_head.bbox_head == flagship.model.roi_head.bbox_head
    test = cfg.model.test_cfg.rcnn
    assert (test.score_thr, test.nms.iou_threshold, test.max_per_img, test.mask_thr_binary) == (1e-4, 0.3, 300, 0.5)


def test_lvis_v05_differs_in_data_classes_and_threshold():
    cfg, base = load('configs/lvis/mask_rcnn_r50_gol_lvis-v0.5.py'), load('configs/lvis/mask_rcnn_r50_gol.py')
    parts = 'bbox_head.loss_cls', 'bbox_head', 'mask_head'
    assert differences(cfg.model, base.model) == sorted(
        [f'roi_head.{part}.num_classes' for part in parts]
        + [f'roi_head.bbox_head.loss_cls.{key}' for key in ('class_frequency', 'frequency_threshold')]
    )
    stock = load_stock('_base_/datasets/lvis_v0.5_instance.py')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'):
        changed = [path for path in differences(cfg[name], stock[name]) if not path.endswith('.pipeline')]
        assert all(path.endswith('type') for path in changed), changed
    loss = cfg.model.roi_head.bbox_head.loss_cls
    assert loss.num_classes == 1230 and loss.frequency_threshold == 0.00177
    assert loss.class_frequency == cfg.data_root + stock.train_dataloader.dataset.dataset.ann_file


def test_coco_and_v3det_are_evaluated_by_the_fast_metric():
    folders = 'configs/coco/', 'configs/v3det/', 'configs/custom_dataset/'
    for name in [name for name in CONFIGS if name.startswith(folders)]:
        cfg = load(name)
        assert cfg.val_evaluator.type == cfg.test_evaluator.type == 'FastCocoMetric', name


@pytest.mark.parametrize('model', ['mask_rcnn_se_r50', 'mask_rcnn_se_r101', 'faster_rcnn_se_r50'])
def test_coco_configs_use_the_schedules_of_mmdet(model):
    for schedule, epochs in (('1x', 12), ('2x', 24)):
        stock = load_stock(f'_base_/schedules/schedule_{schedule}.py')
        cfg = load(f'configs/coco/{model}_apa_{schedule}_coco.py')
        for key in ('param_scheduler', 'auto_scale_lr'):
            assert cfg[key] == stock[key]
        assert cfg.optim_wrapper == dict(stock.optim_wrapper, constructor='ActivationOptimWrapperConstructor')
        assert cfg.train_cfg.max_epochs == epochs and cfg.train_dataloader.dataset.type == 'CocoDataset'
        assert cfg.model.type == ('MaskRCNN' if 'mask' in model else 'FasterRCNN')
        assert cfg.val_evaluator.metric == (['bbox', 'segm'] if 'mask' in model else 'bbox')


@pytest.mark.parametrize(
    'name', ['faster_rcnn_se_r50_apa', 'cascade_rcnn_se_r50_apa', 'mask_rcnn_se_r50_apa', 'faster_rcnn_swin-b_apa']
)
def test_v3det_configs_are_the_published_recipe(name):
    cfg = load(f'configs/v3det/{name}_v3det.py')
    assert cfg.train_dataloader.dataset.oversample_thr == 1e-3 and cfg.train_dataloader.batch_size == 4
    assert cfg.auto_scale_lr.base_batch_size == 32 and cfg.train_cfg.max_iters == 137520
    wrapper = cfg.optim_wrapper
    assert (wrapper.optimizer.type, wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == ('AdamW', 1e-4, 0.1)
    assert wrapper.clip_grad.max_norm == 35
    warmup, steps = cfg.param_scheduler
    assert (warmup.start_factor, warmup.end, steps.milestones, steps.gamma) == (1 / 2048, 5000, [91680, 126060], 0.1)
    test, proposals = cfg.model.test_cfg.rcnn, cfg.model.train_cfg.rpn_proposal
    assert (test.score_thr, test.nms.iou_threshold, test.max_per_img) == (1e-4, 0.6, 300)
    assert (proposals.nms_pre, proposals.max_per_img) == (4000, 2000)
    stages = cfg.model.train_cfg.rcnn if 'cascade' in name else [cfg.model.train_cfg.rcnn]
    assert all(s.assigner.perm_repeat_gt_cfg == dict(iou_thr=0.7, perm_range=0.01) for s in stages)
    heads = cfg.model.roi_head.bbox_head if 'cascade' in name else [cfg.model.roi_head.bbox_head]
    for head in heads:
        assert head.num_classes == 13204 and head.reg_class_agnostic
        assert (
            head.cls_predictor_cfg == dict(type='WrappedCauchyLinear')
            and head.loss_cls.type == 'MemoryEfficientCrossEntropyLoss'
        )
    assert [s.assigner.pos_iou_thr for s in stages] == [0.5, 0.6, 0.7][: len(stages)] and len(heads) == len(stages)


def test_the_cascade_has_the_box_coders_of_mmdet():
    ours, stock = (
        load('configs/v3det/cascade_rcnn_se_r50_apa_v3det.py'),
        load_stock('_base_/models/cascade-rcnn_r50_fpn.py'),
    )
    for head, other in zip(ours.model.roi_head.bbox_head, stock.model.roi_head.bbox_head, strict=True):
        assert head.bbox_coder == other.bbox_coder


def test_the_flagship_model():
    model = build(load(FLAGSHIP))
    head, mask = model.roi_head.bbox_head, model.roi_head.mask_head
    assert head.fc_cls.weight.shape == (1203, 1024) and isinstance(head.loss_cls, DropLoss)
    assert isinstance(mask.conv_logits, LearnableNormedConv2d) and mask.conv_logits.weight.shape == (1203, 256, 1, 1)
    assert type(mask.upsample) is DeviceAgnosticCARAFEPack
    assert {k: tuple(v.shape) for k, v in mask.upsample.state_dict().items() if k.endswith('weight')} == {
        'channel_compressor.weight': (64, 256, 1, 1),
        'content_encoder.weight': (100, 64, 3, 3),
    }
    assert any(isinstance(m, AGLU) for m in model.modules()) and any(isinstance(m, APA) for m in model.modules())


def test_the_flagships_initial_weights():
    """As the published config gives them: a value of its own for the classifier, PyTorch's for the other layers."""
    cfg = load(FLAGSHIP)
    cfg.model.backbone.init_cfg = None
    model = build(cfg)
    model.init_weights()
    head = model.roi_head.bbox_head
    assert (head.fc_cls.weight == 0.001).all() and (head.fc_cls.bias == -2).all()
    assert head.fc_reg.weight.std().item() == pytest.approx(0.018, abs=0.0002)
    assert [fc.weight.std().item() for fc in head.shared_fcs] == [
        pytest.approx(0.0052, abs=5e-5),
        pytest.approx(0.018, abs=0.0002),
    ]
    assert all(0 < layer.bias.abs().max() <= layer.in_features**-0.5 for layer in (head.fc_reg, *head.shared_fcs))
    assert model.roi_head.mask_head.conv_logits.temperature.item() == 4.5


def test_a_recipe_that_is_published_has_the_published_initial_weights():
    for name in CONFIGS:
        head = load(name).model.get('roi_head', {}).get('bbox_head', {})
        if name.startswith('configs/lvis/') and not re.search('softmax|seesaw|eqlv2', name):
            assert head.init_cfg == dict(type='Constant', val=0.001, bias=-2.0, override=dict(name='fc_cls')), name


@pytest.mark.parametrize('name', CONFIGS)
def test_lambda_and_kappa_decay_in_published_recipes_alone(name):
    """And what ACON and APALU learn never does."""
    wrapper = load(name).optim_wrapper
    published = name.startswith(('configs/lvis/', 'configs/v3det/')) and 'swin' not in name
    acts = nn.ModuleList([AGLU(), APA(), AconA(2), AconB(2), AconC(2), MetaAconC(2), APALU(2)])
    groups = build_optim_wrapper(acts, wrapper).optimizer.param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    found = {n: decay[id(p)] for n, p in acts.named_parameters()}
    base = wrapper.optimizer.weight_decay
    for key, value in found.items():
        expected = base * published if key.startswith(('0.', '1.')) else 0 if key.count('.') == 1 else base
        if not ('bn' in key or 'bias' in key):  # which some recipes exempt
            assert value == expected > -1, key


@pytest.mark.parametrize('name', CONFIGS)
def test_options_change_the_data_root_the_classes_and_the_length_of_every_config(name):
    cfg = load(name)
    unit = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
    cfg.merge_from_dict(deepcopy(spell_out(cfg, {'data_root': '/disk/mine', 'classes': ['a', 'b', 'c'], unit: 7})))
    for split in ('train', 'val', 'test'):
        (dataset,) = leaves(cfg[f'{split}_dataloader'].dataset)
        assert dataset.data_root.rstrip('/') == '/disk/mine' and dataset.metainfo == dict(classes=('a', 'b', 'c'))
    assert cfg.val_evaluator.ann_file.startswith('/disk/mine/')
    counts = [part.num_classes for _, part in model_parts(cfg.model) if 'num_classes' in part]
    assert set(counts) == {3}
    assert cfg.train_cfg[unit] == 7
    counted = [s for s in cfg.param_scheduler if s.get('by_epoch', True) == (unit == 'max_epochs')]
    assert (
        max(value for s in counted for value in (s.get('end'), s.get('T_max'), *s.get('milestones', [])) if value) <= 7
    )
    build_heads_of(cfg)


def build_heads_of(cfg):
    """Builds what knows the number of classes."""
    init_default_scope('mmdet')
    heads = cfg.model.get('roi_head', {}).get('bbox_head')
    for head in heads if isinstance(heads, list) else [heads] if heads else []:
        with torch.device('meta'):
            assert MODELS.build(head).num_classes == 3


def test_no_config_of_ours_has_a_setting_that_does_not_fit():
    for name in CONFIGS:
        checks = check_metrics, check_losses, *([check_options] if name in (FLAGSHIP, TINY, SMALL) else [])
        assert check_launch(Launch('train.py', load(name)), checks) == [], name


def test_the_lvis_threshold_spares_815_classes():
    loss = build(load(FLAGSHIP)).roi_head.bbox_head.loss_cls
    loss.init_weights()
    assert loss.dropped.sum() == 815


@pytest.mark.parametrize(
    'leaf, base, changed',
    [
        (
            'lvis/mask_rcnn_se_r101_apa.py',
            'lvis/mask_rcnn_se_r50_apa.py',
            [
                'backbone.depth',
                'backbone.init_cfg',
                'roi_head.mask_head.predictor_cfg',
                'roi_head.mask_head.upsample_cfg',
            ],
        ),
        (
            'lvis/mask_rcnn_se_r50_relu_gol.py',
            'lvis/mask_rcnn_se_r50_apa.py',
            ['backbone.act_cfg', 'backbone.init_cfg', 'backbone.se_cfg'],
        ),
        (
            'lvis/mask_rcnn_se_r50_relu_softmax.py',
            'lvis/mask_rcnn_se_r50_relu_gol.py',
            ['roi_head.bbox_head.init_cfg', 'roi_head.bbox_head.loss_cls'],
        ),
        (
            'lvis/mask_rcnn_r50_gol.py',
            'lvis/mask_rcnn_se_r50_apa.py',
            [
                'backbone.init_cfg',
                'backbone.type',
                'roi_head.mask_head.predictor_cfg',
                'roi_head.mask_head.upsample_cfg',
                'test_cfg.rcnn',
            ],
        ),
        ('lvis/mask_rcnn_r101_gol.py', 'lvis/mask_rcnn_r50_gol.py', ['backbone.depth', 'backbone.init_cfg']),
        *(
            (
                f'lvis/mask_rcnn_{name}_seesaw.py',
                f'lvis/mask_rcnn_{base}.py',
                [f'roi_head.bbox_head.{part}' for part in ('cls_predictor_cfg', 'init_cfg', 'loss_cls')],
            )
            for name, base in PLAIN_AND_APA
        ),
        *(
            (
                f'lvis/mask_rcnn_{name}_eqlv2.py',
                f'lvis/mask_rcnn_{base}.py',
                [f'roi_head.bbox_head.{part}' for part in ('init_cfg', 'loss_cls')],
            )
            for name, base in PLAIN_AND_APA
        ),
        ('lvis/mask_rcnn_se_x50_apa.py', 'lvis/mask_rcnn_se_r50_apa.py', ['backbone.init_cfg', 'backbone.type']),
        (
            'lvis/mask_rcnn_se_x101_apa.py',
            'lvis/mask_rcnn_se_r101_apa.py',
            ['backbone.base_width', 'backbone.init_cfg', 'backbone.type'],
        ),
        ('lvis/mask_rcnn_se_r152_apa.py', 'lvis/mask_rcnn_se_r101_apa.py', ['backbone.depth', 'backbone.init_cfg']),
        ('lvis/mask_rcnn_cbam_r50_apa.py', 'lvis/mask_rcnn_se_r50_apa.py', ['backbone.init_cfg', 'backbone.se_cfg']),
        *(
            (
                f'coco/{m}_rcnn_se_{d}_relu_sigmoid_{schedule}_coco.py',
                f'coco/{m}_rcnn_se_{d}_apa_{schedule}_coco.py',
                ['backbone.act_cfg', 'backbone.init_cfg', 'backbone.se_cfg'],
            )
            for m, d in (('mask', 'r50'), ('mask', 'r101'), ('faster', 'r50'))
            for schedule in ('1x', '2x')
        ),
        *(
            (
                f'coco/mask_rcnn_se_r101_apa_{schedule}_coco.py',
                f'coco/mask_rcnn_se_r50_apa_{schedule}_coco.py',
                ['backbone.depth', 'backbone.init_cfg'],
            )
            for schedule in ('1x', '2x')
        ),
        *(
            (
                f'v3det/{m}_rcnn_se_r50_relu_sigmoid_v3det.py',
                f'v3det/{m}_rcnn_se_r50_apa_v3det.py',
                ['backbone.act_cfg', 'backbone.init_cfg', 'backbone.se_cfg'],
            )
            for m in ('faster', 'cascade', 'mask')
        ),
        ('v3det/faster_rcnn_swin-b_gelu_v3det.py', 'v3det/faster_rcnn_swin-b_apa_v3det.py', ['backbone.act_cfg']),
        (
            'tiny_lvis/mask_rcnn_se_r18_relu_softmax.py',
            'tiny_lvis/mask_rcnn_se_r18_apa.py',
            ['backbone.act_cfg', 'backbone.se_cfg', 'roi_head.bbox_head.init_cfg', 'roi_head.bbox_head.loss_cls'],
        ),
        (
            'tiny_lvis/mask_rcnn_se_r18_relu_gol.py',
            'tiny_lvis/mask_rcnn_se_r18_apa.py',
            ['backbone.act_cfg', 'backbone.se_cfg'],
        ),
        (
            'tiny_lvis/mask_rcnn_se_r18_apa_softmax.py',
            'tiny_lvis/mask_rcnn_se_r18_apa.py',
            ['roi_head.bbox_head.init_cfg', 'roi_head.bbox_head.loss_cls'],
        ),
        (
            'tiny_lvis/mask_rcnn_se_r18_apa_seesaw.py',
            'tiny_lvis/mask_rcnn_se_r18_apa.py',
            [f'roi_head.bbox_head.{part}' for part in ('cls_predictor_cfg', 'init_cfg', 'loss_cls')],
        ),
        *(
            (
                f'small_lvis/mask_rcnn_se_r18_{leaf}_small-lvis.py',
                f'small_lvis/mask_rcnn_se_r18_{base}_small-lvis.py',
                [f'backbone.{part}' for part in backbone] + [f'roi_head.bbox_head.{part}' for part in head],
            )
            for leaf, base, backbone, head in SMALL_LEAVES
        ),
        *(
            (f'tiny_lvis/mask_rcnn_se_r18_{a}.py', 'tiny_lvis/mask_rcnn_se_r18_relu_gol.py', ['backbone.act_cfg'])
            for a in LEARNABLE
        ),
        *(
            (
                f'lvis/mask_rcnn_se_r50_{a}.py',
                'lvis/mask_rcnn_se_r50_relu_gol.py',
                ['backbone.act_cfg', 'backbone.init_cfg'],
            )
            for a in LEARNABLE
        ),
    ],
)
def test_a_leaf_is_its_difference(leaf, base, changed):
    leaf, base = load(f'configs/{leaf}'), load(f'configs/{base}')
    found = {
        '.'.join(d.split('.')[: 3 if d.startswith('roi_head') else 2]) for d in differences(leaf.model, base.model)
    }
    assert sorted(found) == changed
    leaf.pop('model'), base.pop('model')
    assert differences(leaf._cfg_dict, base._cfg_dict) == []


@pytest.mark.parametrize('name, kind', LEARNABLE.items())
def test_acon_and_apalu_follow_the_3x3_convolutions_of_r50_and_every_norm_of_r18(name, kind):
    def sites(config):
        with torch.device('meta'):
            model = build(load(config))
        return [key.removeprefix('backbone.') for key, module in model.named_modules() if isinstance(module, kind)]

    assert sites(f'configs/lvis/mask_rcnn_se_r50_{name}.py') == [
        f'layer{s}.{b}.act_conv2' for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)
    ]
    assert sites(f'configs/tiny_lvis/mask_rcnn_se_r18_{name}.py') == [
        'act_stem',
        *(f'layer{s}.{b}.act_{site}' for s in (1, 2, 3, 4) for b in (0, 1) for site in ('conv1', 'out')),
    ]


def test_a_baseline_has_no_learnable_activation():
    for name in ('relu_gol', 'relu_softmax'):
        model = build(load(f'configs/lvis/mask_rcnn_se_r50_{name}.py'))
        assert not [n for n, _ in model.named_parameters() if n.endswith(('.lambda_', '.kappa'))]
    assert model.roi_head.bbox_head.fc_cls.out_features == 1204


@pytest.mark.parametrize(
    'name, vocabulary', [(TINY, vocabularies.TINY), (SMALL, vocabularies.SMALL)], ids=['tiny', 'small']
)
def test_a_config_lists_the_drawn_classes(name, vocabulary):
    cfg = load(name)
    assert tuple(cfg.metainfo.classes) == vocabulary.names and cfg.num_classes == len(vocabulary.names)


def test_the_small_config_repeats_and_drops_rare_classes():
    cfg = load(SMALL)
    share = planned_counts('train', 4000, vocabularies.SMALL) / 4000
    dropped = share < cfg.model.roi_head.bbox_head.loss_cls.frequency_threshold
    assert dropped.sum() == 120 and share[dropped].max() * 4000 == 10
    repeats = (cfg.train_dataloader.dataset.oversample_thr / share) ** 0.5
    assert repeats.max() == pytest.approx(5) and (repeats[~dropped] > 2).sum() == 0


def test_the_class_frequency_file_is_in_the_order_of_the_labels():
    from mmdet.datasets import LVISV1Dataset

    content = json.loads((ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json').read_text())
    names = [c['name'] for c in content['categories']]
    other = [pair for pair in zip(names, LVISV1Dataset.METAINFO['classes'], strict=True) if pair[0] != pair[1]]
    assert other == [
        ('speaker_(stero_equipment)', 'speaker_(stereo_equipment)')
    ]  # a misspelling of LVIS, which mmdet corrects
    assert [c['id'] for c in content['categories']] == list(range(1, 1204))


def test_no_config_names_what_the_hosts_spell_differently():
    """MMDetection's ``tempearture`` is OneDL's ``temperature``; both are 20 without it."""
    spelled = re.compile(r"type='Normed(Linear|Conv2d)',[^)]*temp")
    assert [path for path in (ROOT / 'configs').rglob('*.py') if spelled.search(path.read_text())] == []
