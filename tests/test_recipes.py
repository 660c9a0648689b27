"""The configs in docs/train.md build and do what their section says; the slow tests train them."""

import inspect
import re
import shutil
from functools import partial

import pytest
import torch
from helpers.paths import ROOT
from helpers.shrink_config import shrunk, two_steps
from mmdet.registry import DATASETS, EVALUATOR, HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS, VISBACKENDS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_training import as_custom_dataset

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch
from apa_mmdet.models.activations import AGLU, APA, AconC
from apa_mmdet.models.losses.links import APALink
from apa_mmdet.utils.config import leaves

PAGE = (ROOT / 'docs/train.md').read_text()


def blocks():
    """Returns the Python blocks of the page by their headings; several below one are numbered."""
    found = {}
    for heading, section in re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', PAGE, re.M | re.S):
        for i, block in enumerate(re.findall(r'^```python\n(.*?)^```$', section, re.M | re.S), 1):
            found[f'{heading}, {i}' if i > 1 else heading] = block
    return found


RECIPES = blocks()


def parsed(name, folder):
    path = folder / 'recipe.py'  # where there is no other config
    path.write_text(RECIPES[name])
    return Config.fromfile(path)


def is_lambda_or_kappa(name):
    """Returns whether a parameter is λ or κ of an activation."""
    return name.endswith(('.lambda_', '.kappa'))


def setting(model, wrapper, key):
    """Returns ``key`` of the optimizer for each trained parameter, by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group[key] for group in wrapper.optimizer.param_groups for p in group['params']}


def fine_tuning(cfg, model, wrapper):
    assert model.roi_head.bbox_head.fc_cls.out_features == model.roi_head.bbox_head.loss_cls.num_classes == 3
    assert cfg.load_from == 'OUT' and cfg.train_dataloader.dataset.dataset.type == 'CocoDataset'


def one_gpu(cfg, model, wrapper):
    assert wrapper._accumulative_counts * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size


def mixed_precision(cfg, model, wrapper):
    assert wrapper.cast_dtype == torch.bfloat16


def frozen(cfg, model, wrapper):
    assert not any(p.requires_grad for p in model.backbone.parameters())


def activations_alone(cfg, model, wrapper):
    rates = setting(model, wrapper, 'lr')
    assert {name for name, lr in rates.items() if lr} == {
        name for name in rates if is_lambda_or_kappa(name) or not name.startswith('backbone.')
    }
    assert sum(is_lambda_or_kappa(name) for name in rates) == 2 * (1 + 16 * 4)
    keys = {'': dict(lr_mult=0.0), 'lambda_': dict(lr_mult=1.0), 'kappa': dict(lr_mult=1.0)}
    alone = build_optim_wrapper(model, dict(cfg.optim_wrapper, paramwise_cfg=dict(custom_keys=keys)))
    assert all(bool(lr) == is_lambda_or_kappa(name) for name, lr in setting(model, alone, 'lr').items())


def per_channel(cfg, model, wrapper):
    sites = [m for m in model.backbone.modules() if isinstance(m, (AGLU, APA))]
    assert sum(p.numel() for site in sites for p in site.parameters()) == 75648
    assert f'{75648:,} parameters instead of {2 * len(sites)}' in PAGE


def link(cfg, model, wrapper):
    head = model.roi_head.bbox_head
    assert isinstance(head.loss_cls.link, APALink)
    with torch.no_grad():
        start = APALink()(torch.tensor([-7.4])), torch.exp(-torch.exp(torch.tensor([2.0])))
    assert all(p.item() == pytest.approx(6e-4, abs=5e-5) for p in start) and head.init_cfg['bias'] == -7.4


def memory(cfg, model, wrapper):
    assert model.backbone.recompute_act


def other_activations(cfg, model, wrapper):
    acts = [m for m in model.modules() if isinstance(m, AconC)]
    assert len(acts) == 16 - 3 and all(p.requires_grad for act in acts for p in act.parameters())


def no_decay(cfg, model, wrapper):
    decay = setting(model, wrapper, 'weight_decay')
    assert (
        {name for name, value in decay.items() if not value}
        == {name for name in decay if is_lambda_or_kappa(name)}
        != set()
    )


def best(cfg, model, wrapper):
    assert check_launch(Launch('train.py', cfg)) == [] and cfg.default_hooks.checkpoint.save_best == 'auto'


def lvis(cfg, model, wrapper):
    assert cfg.test_evaluator.topk == 10000 and 'topk' not in cfg.val_evaluator
    assert model.roi_head.test_cfg.max_per_img == 1000


def some_classes(cfg, model, wrapper):
    head, datasets = model.roi_head.bbox_head, list(leaves([cfg.train_dataloader.dataset]))
    datasets += [cfg.val_dataloader.dataset, cfg.test_dataloader.dataset]
    known = DATASETS.get(datasets[0].type).METAINFO['classes']
    assert {d.type for d in datasets} == {'SelectiveLVISV1Dataset'} and set(datasets[0].metainfo.classes) < set(known)
    assert [len(d.metainfo.classes) for d in datasets] == [head.fc_cls.out_features] * 3 == [10] * 3
    loss = MODELS.build(cfg.model.roi_head.bbox_head.loss_cls)
    assert loss.classes == datasets[0].metainfo.classes
    loss.init_weights()
    assert loss.dropped.sum() == 2  # ambulance and tow truck


def frequency_groups(cfg, model, wrapper):
    options = cfg.test_evaluator.frequency_groups
    assert options.ann_file == cfg.test_evaluator.ann_file and len(options.quantiles) == 2
    cfg.default_hooks.checkpoint.save_best = 'coco/segm_APr'
    assert 'unknown-metric-key' not in {f.code for f in check_launch(Launch('train.py', cfg))}


def channels_last(cfg, model, wrapper):
    assert [hook.type for hook in cfg.custom_hooks] == ['ChannelsLastHook']
    inspect.signature(HOOKS.get('ChannelsLastHook')).bind()


def several_data_sets(cfg, model, wrapper):
    groups = cfg.val_evaluator.metrics
    assert [len(group) if isinstance(group, (list, tuple)) else 1 for group in groups] == [2, 1]
    assert len(cfg.val_dataloader.dataset.datasets) == len(cfg.val_evaluator.dataset_prefixes) == 2
    cfg.default_hooks.checkpoint.save_best = 'city/recall/AR@100'
    assert check_launch(Launch('train.py', cfg)) == []


def trackers(cfg, model, wrapper):
    assert [VISBACKENDS.get(b.type).__name__ for b in cfg.visualizer.vis_backends] == [
        'LocalVisBackend',
        'TensorboardVisBackend',
        'WandbVisBackend',
    ]


PROMISED = {
    'Fine-tuning a trained detector': fine_tuning,
    'One GPU': one_gpu,
    'Mixed precision': mixed_precision,
    'Frozen backbone': frozen,
    'Frozen backbone, 2': activations_alone,
    'Parameters per channel': per_channel,
    'Link and loss': link,
    'Less memory': memory,
    'Other activations': other_activations,
    'No weight decay for λ and κ': no_decay,
    'No weight decay for λ and κ, 2': no_decay,
    'The best checkpoint, and early stopping': best,
    "Some of LVIS's classes": some_classes,
    'Evaluating LVIS': lvis,
    'Evaluating COCO, V3Det and your own data': frequency_groups,
    'Channels last': channels_last,
    'Several data sets': several_data_sets,
    'TensorBoard, Weights & Biases': trackers,
}


def parts(cfg):
    """Yields what a run builds besides its model, each with its registry."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset
        while dataset is not None:
            yield DATASETS, dataset
            yield from ((TRANSFORMS, transform) for transform in dataset.get('pipeline', ()))
            dataset = dataset.get('dataset')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        yield (EVALUATOR if 'metrics' in evaluator else METRICS), evaluator
    yield from ((HOOKS, hook) for hook in cfg.default_hooks.values())
    yield from ((PARAM_SCHEDULERS, scheduler) for scheduler in cfg.param_scheduler)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_builds_and_keeps_its_promise(name, tmp_path):
    cfg = parsed(name, tmp_path)
    assert cfg.custom_imports.imports == ['apa_mmdet']
    init_default_scope('mmdet')
    for registry, recipe in parts(cfg):
        arguments = {key: value for key, value in recipe.items() if key not in ('type', '_scope_')}
        inspect.signature(registry.get(recipe.type)).bind_partial(**arguments)  # TypeError for an unknown argument
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    PROMISED[name](cfg, model, build_optim_wrapper(model, cfg.optim_wrapper))


def test_every_recipe_has_a_promise():
    assert set(PROMISED) == set(RECIPES)


# Training

FORMS = {'data/lvis_v1/': 'lvis_v1', 'data/coco/': 'coco', 'data/V3Det/': 'v3det', 'data/tiny_lvis/': 'tiny_lvis'}


def small(name, folder, made):
    """Returns a recipe cut to two steps on small data from random weights."""
    cfg = parsed(name, folder)
    kept = {key: cfg.model.backbone.get(key) for key in ('frozen_stages', 'norm_eval')}
    for root, form in FORMS.items():
        cfg = shrunk(cfg, root, made(form))
    own = as_custom_dataset(made('coco'), folder / 'own')
    for other in ('city.json', 'country.json'):
        shutil.copy(own / 'trainval.json', own / other)
    cfg = two_steps(shrunk(cfg, 'data/own/', own))
    if name.startswith('Frozen'):
        cfg.model.backbone.update(kept)
    cfg.work_dir = str(folder / 'work')
    cfg.default_hooks.checkpoint.update(interval=100, save_last=False)  # a gigabyte each
    train, test = cfg.model.train_cfg, cfg.model.test_cfg
    test.get('rcnn', test).update(score_thr=5e-5 if 'v3det' in RECIPES[name] else -1.0, max_per_img=10)
    if 'rcnn' in test:  # or the many classes would take minutes
        train.rcnn.sampler.num, test.rpn.max_per_img = 32, 5
    cfg.test_evaluator.pop('outfile_prefix', None)
    cfg.visualizer.vis_backends = [b for b in cfg.visualizer.vis_backends if b.type == 'LocalVisBackend']
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_trains(name, tmp_path, tiny_data):
    cfg = small(name, tmp_path, partial(tiny_data, train=4, val=2, size=(96, 64)))
    if cfg.load_from:
        cfg.load_from = str(tmp_path / 'other_classes.pth')
        other = cfg.copy()
        five = dict(bbox_head=dict(num_classes=5, loss_cls=dict(num_classes=5)), mask_head=dict(num_classes=5))
        other.merge_from_dict(dict(model=dict(roi_head=five)))
        torch.save(MODELS.build(other.model).state_dict(), cfg.load_from)
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()  # which train() does once, and this test wants to see what comes after
    if cfg.load_from:
        runner.load_or_resume()
        loaded, own = torch.load(cfg.load_from), runner.model.state_dict()
        classes = ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
        assert {key for key in own if not torch.equal(own[key], loaded[key])} == {
            f'roi_head.{layer}.{kind}' for layer in classes for kind in ('weight', 'bias')
        }
    before = {key: p.detach().clone() for key, p in runner.model.named_parameters()}
    runner.train()
    changed = {key for key, p in runner.model.named_parameters() if not torch.equal(p, before[key])}
    assert any(key.startswith(('neck.', 'roi_head.')) for key in changed)
    in_backbone = {key for key in changed if key.startswith('backbone.')}
    assert bool(in_backbone) == (name != 'Frozen backbone')
    assert name != 'Frozen backbone, 2' or all(is_lambda_or_kappa(key) for key in in_backbone)
    found = runner.test()
    assert found and not any(torch.tensor(value).isinf() for value in found.values())  # NaN is the AP of nothing
