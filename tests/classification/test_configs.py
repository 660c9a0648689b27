"""Every config of a classifier builds our backbone, is the published recipe, and trains."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_images import FOLDERS, ROOTS, narrow, without_data
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmpretrain.models import ImageClassifier
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch
from apa_mmdet.models.activations import AGLU, APA
from apa_mmdet.models.layers import CosineLinear
from apa_mmdet.utils.config import build_detector, leaves, load_config
from apa_mmdet.utils.shorthand_options import spell_out

CONFIGS = sorted(str(p.relative_to(ROOT)) for kind in FOLDERS for p in (ROOT / 'configs' / kind).glob('*.py'))
SUFFIXES = dict(
    imagenet='_in1k',
    imagenet_lt='_imagenet-lt',
    inat18='_inat18',
    places_lt='_places-lt',
    cifar100_lt='_cifar100-lt',
    tiny_objects='_tiny-objects',
    small_objects='_small-objects',
)
FIRST = {
    'configs/imagenet/se_resnet50_apa_in1k.py': (1000, 64, 100),
    'configs/imagenet_lt/se_resnet50_apa_imagenet-lt.py': (1000, 64, 200),
    'configs/inat18/se_resnet50_apa_inat18.py': (8142, 256, 500),
    'configs/places_lt/se_resnet152_apa_places-lt.py': (365, 64, 40),
    'configs/cifar100_lt/se_resnet32_apa_cifar100-lt.py': (100, 512, 500),
}


@cache
def parsed(name):
    return load_config(ROOT / name)


def load(name):
    return deepcopy(parsed(name))


@cache
def built(name):
    cfg = without_data(load(name))
    with torch.device('meta'):
        return build_detector(cfg, name)


# built in seconds; the others like them in `make test-slow`
DEEP = re.compile('resnet(34|101|152)|resnext|acon|apalu|relu_sigmoid_(?!in1k)|(cbam|resnet18).*relu')
BUILT = [pytest.param(name, marks=pytest.mark.slow if DEEP.search(name) else ()) for name in CONFIGS]


@pytest.mark.parametrize('name', BUILT)
def test_a_config_builds_our_backbone_with_its_activations(name):
    cfg, model = load(name), built(name)
    assert cfg.custom_imports.imports == ['apa_mmdet', 'apa_mmdet.classification']
    assert Path(name).stem.endswith(SUFFIXES[name.split('/')[1]])
    assert isinstance(model, ImageClassifier)
    assert type(model.backbone).__module__.startswith('apa_mmdet.')  # MMPretrain has a SEResNet too
    assert any(isinstance(m, (AGLU, APA)) for m in model.modules()) == ('_apa_' in name)
    assert not model.backbone.norm_eval and model.head.num_classes == model.data_preprocessor.num_classes
    assert (model.data_preprocessor.batch_augments is None) == ('_objects/' in name)
    assert isinstance(model.head.fc, CosineLinear) == ('imagenet/' not in name and '_objects/' not in name)
    assert (cfg.runner_type, cfg.train_cfg.type) == ('SafeRunner', 'ResumableEpochBasedTrainLoop')
    assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook' and 'finite' in cfg.default_hooks


@pytest.mark.parametrize('name', [param for param in BUILT if 'relu_sigmoid' in param.values[0]])
def test_a_baseline_differs_in_its_activations_alone(name):
    ours, baseline = load(name.replace('relu_sigmoid', 'apa')), load(name)
    for cfg in (ours, baseline):
        for key in ('act_cfg', 'se_cfg', 'init_cfg'):
            cfg.model.backbone.pop(key, None)
    assert ours._cfg_dict == baseline._cfg_dict


def asked_by_detectors():
    """The ImageNet weights that configs of detectors name, each with one of these configs."""
    paths = sorted((ROOT / 'configs').glob('[!_]*/*.py')) + [ROOT / 'configs/lvis/mask_rcnn_se_r50_apa.py']
    texts = {path: path.read_text() for path in paths if path.parent.name not in FOLDERS}
    own = {stem: path for path, text in texts.items() for stem in re.findall(r'pretrained/([\w-]+)\.pth', text)}
    return dict(own, se_resnet50_apa=paths[-1])  # which a base names


def test_every_backbone_that_a_detector_asks_for_has_a_config():
    assert len(asked_by_detectors()) == 11
    for stem in asked_by_detectors():
        assert (ROOT / f'configs/imagenet/{stem}_in1k.py').is_file(), stem


@pytest.mark.slow
@pytest.mark.parametrize('stem', asked_by_detectors())
def test_the_backbone_is_that_of_the_detector(stem):
    keys = 'type', 'depth', 'act_cfg', 'se_cfg', 'groups', 'base_width'
    detector, ours = Config.fromfile(asked_by_detectors()[stem]), load(f'configs/imagenet/{stem}_in1k.py')
    assert {k: ours.model.backbone.get(k) for k in keys} == {k: detector.model.backbone.get(k) for k in keys}


@pytest.mark.parametrize('name, figures', FIRST.items(), ids=[name.split('/')[1] for name in FIRST])
def test_the_published_recipe(name, figures):
    cfg = load(name)
    classes, batch, epochs = figures
    assert (cfg.model.head.num_classes, cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == figures
    assert cfg.auto_scale_lr.base_batch_size == batch * (1 if 'cifar' in name else 4)
    kind, optimizer = name.split('/')[1], cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == {
        'imagenet': ('SGD', 0.256, 0.875, 6.1e-5),
        'imagenet_lt': ('SGD', 0.2, 0.9, 1e-4),
        'inat18': ('SGD', 0.5, 0.9, 1e-4),
        'places_lt': ('SGD', 0.1, 0.9, 5e-5),
        'cifar100_lt': ('SGD', 0.2, 0.9, 1e-3),
    }[kind]
    *warmup, cosine = cfg.param_scheduler
    warmup_epochs = dict(imagenet=3, imagenet_lt=0, inat18=5, places_lt=3, cifar100_lt=3)[kind]
    assert [scheduler.end for scheduler in warmup] == [warmup_epochs] * (warmup_epochs > 0)
    assert (cosine.type, cosine.get('begin', 0), cosine.end) == ('CosineAnnealingLR', warmup_epochs, epochs)
    assert cosine.T_max == epochs - warmup_epochs
    mixes = {augment.type: augment.alpha for augment in cfg.model.train_cfg.augments}
    both = kind in ('inat18', 'places_lt')
    assert mixes == dict(Mixup=0.2, **(dict(CutMix=1.0) if both else {}))
    assert cfg.model.head.loss.type == ('LabelSmoothLoss' if both else 'CrossEntropyLoss')
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert ('AutoAugment' in steps) == (not both) and ('RandAugment' in steps) == (kind == 'inat18')
    if kind != 'cifar100_lt':
        assert steps['RandomResizedCrop'].scale == (224 if kind == 'places_lt' else 192)
        test = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
        assert (test['ResizeEdge'].scale, test['CenterCrop'].crop_size) == ((256 if kind == 'places_lt' else 232), 224)
    if kind == 'inat18':
        assert cfg.optim_wrapper.paramwise_cfg.norm_decay_mult == 0 and steps['RandomErasing'].erase_prob == 0.1
        assert cfg.train_dataloader.sampler == dict(type='RepeatAugSampler', num_repeats=4)
    if kind == 'places_lt':
        trained = {name for name, p in built(name).named_parameters() if p.requires_grad}
        assert all(name.startswith(('backbone.layer4.2.', 'head.fc.')) for name in trained)
        assert {'head.fc.sigma', 'head.fc.weight', 'backbone.layer4.2.conv1.weight'} <= trained


def test_autoaugment_for_cifar_is_that_of_torchvision():
    cfg = load('configs/cifar100_lt/se_resnet32_apa_cifar100-lt.py')
    ours = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'AutoAugment').policies
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10)
    space = theirs._augmentation_space(10, (32, 32))
    names = dict(Color='ColorTransform', TranslateX='Translate', TranslateY='Translate', ShearX='Shear', ShearY='Shear')
    assert len(ours) == len(theirs.policies) == 25
    for pair, other in zip(ours, theirs.policies):
        for step, (name, prob, level) in zip(pair, other, strict=True):
            assert (step.type, step.prob) == (names.get(name, name), prob)
            assert step.get('direction') == {'X': 'horizontal', 'Y': 'vertical'}.get(name[-1])
            if level is not None:
                low, high = step.magnitude_range
                value = low + (high - low) * step.magnitude_level / step.total_level
                wanted = space[name][0][level].item() / (32 if name.startswith('Translate') else 1)
                assert value == pytest.approx(wanted, abs=1e-6 if name not in ('Solarize', 'Posterize') else 1)


@pytest.mark.parametrize('name', FIRST, ids=[name.split('/')[1] for name in FIRST])
def test_options_change_the_data_root_the_classes_and_the_length(name):
    cfg = load(name)
    options = {'data_root': '/disk/mine', 'classes': ['a', 'b', 'c'], 'max_epochs': 7}
    cfg.merge_from_dict(deepcopy(spell_out(cfg, options)))
    for split in ('train', 'val', 'test'):
        (dataset,) = leaves(cfg[f'{split}_dataloader'].dataset)
        assert dataset.data_root.rstrip('/') == '/disk/mine' and dataset.metainfo == dict(classes=('a', 'b', 'c'))
    counts = cfg.val_evaluator.get('class_counts')
    assert not isinstance(counts, str) or counts.startswith('/disk/mine/')
    assert cfg.model.head.num_classes == cfg.model.data_preprocessor.num_classes == 3
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == 7
    assert [
        finding for finding in check_launch(Launch('train.py', load(name))) if 'CHECKPOINT' in finding.message
    ] == []


def test_iif_changes_the_scores_and_not_the_weights(tiny, tmp_path):
    """A classifier whose cosines are all 0 tells only the classes that have fewer images."""
    name = 'configs/imagenet_lt/se_resnext50_32x4d_apa_iif_imagenet-lt.py'
    cfg = narrow(load(name), tiny('imagenet_lt'), tmp_path)
    assert cfg.model.calibration.stats == str(tiny('imagenet_lt') / 'meta/ImageNet_LT_train.txt')
    plain = narrow(load(name.replace('_iif', '')), tiny('imagenet_lt'), tmp_path)
    model, other = (build_detector(c, name).eval() for c in (cfg, plain))
    assert type(model) is type(other) and model.state_dict().keys() == other.state_dict().keys()
    model.load_state_dict(other.state_dict())
    images = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        shift = model(images) - other(images)
    counts = torch.tensor([6.0, 3.0, 2.0])
    torch.testing.assert_close(shift, ((11 - counts) / counts).log().expand(2, 3))
    assert torch.equal(model.train().head((torch.ones(1, 128),)), other.train().head((torch.ones(1, 128),)))


# the others in `make test-slow`
TRAINED = [pytest.param(name, marks=() if '/in' in name or 'cifar' in name else pytest.mark.slow) for name in FIRST]


@pytest.mark.parametrize('name', TRAINED, ids=[name.split('/')[1] for name in FIRST])
def test_a_config_trains_and_evaluates(name, tiny, tmp_path, no_checksums):
    kind = name.split('/')[1]
    cfg = narrow(load(name), tiny(kind), tmp_path)
    assert ROOTS[kind] in load(name).train_dataloader.dataset.data_root
    cfg.randomness = dict(seed=0)
    runner = RUNNERS.build(cfg)
    runner.model.init_weights()  # which train() does once, and this test wants to see what comes after
    before = {key: p.detach().clone() for key, p in runner.model.named_parameters()}
    runner.train()
    trained = {key for key, p in runner.model.named_parameters() if p.requires_grad}
    changed = {key for key, p in runner.model.named_parameters() if not torch.equal(p, before[key])}
    assert changed <= trained and 'head.fc.weight' in changed
    found = runner.test()
    assert {f'accuracy/top{k}' for k in (1, 2)} <= found.keys() and (tmp_path / 'epoch_1.pth').is_file()
    counted = {'accuracy/top1_many', 'accuracy/top1_few'} <= found.keys()
    assert counted == (kind != 'imagenet')
