"""Classifiers are trained as detectors are: exact resumption, skipped steps, several processes."""

import subprocess

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.programs import environment, succeed
from helpers.soak import compare, logged
from helpers.tiny_images import narrow
from helpers.tiny_runs import Stop, log_of, saved_at
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmpretrain.registry import TRANSFORMS

from apa_mmdet.engine.runner.single_images import SingleImage
from apa_mmdet.utils.config import load_config

# four steps an epoch, a checkpoint after every third and the last
OPTIONS = {
    'train_dataloader.batch_size': 2,
    'train_dataloader.dataset.indices': 8,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 3,
    'default_hooks.logger.interval': 1,
    'train_cfg.max_epochs': 2,
    'param_scheduler': [dict(type='CosineAnnealingLR', by_epoch=False, T_max=8, end=8)],
}


def small(data, work_dir, until='the end', **options):
    cfg = narrow(load_config(ROOT / 'configs/imagenet/se_resnet18_apa_in1k.py'), data, work_dir)
    cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1,)
    cfg.experiment_name = f'{work_dir} until {until}'  # or runs of the same second would share their logs
    cfg.merge_from_dict({**OPTIONS, **options})
    return cfg


def train(cfg, *hooks):
    runner = RUNNERS.build(cfg)
    for hook in hooks:
        runner.register_hook(hook, 'LOWEST')
    runner.train()
    return runner


@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [
        {},
        {
            'optim_wrapper.type': 'MixedPrecisionOptimWrapper',
            'optim_wrapper.dtype': 'bfloat16',
            'train_dataloader.num_workers': 2,
            'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
        },
    ],
    ids=['float32', 'bfloat16, workers, EMA'],
)
def test_resume_within_an_epoch_is_bitwise_equal(options, tiny, tmp_path):
    """The images are drawn by shuffling, cropping, AutoAugment and mixup."""
    data, options = tiny('imagenet'), {**options, 'train_dataloader.persistent_workers': False}
    stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
    with pytest.raises(KeyboardInterrupt):
        train(small(data, stopped, until=4, **options), Stop(4))
    assert (stopped / 'last_checkpoint').read_text().endswith('iter_3.pth')
    seed = saved_at(stopped / 'iter_3.pth')['meta']['seed']
    train(small(data, stopped, resume=True, **options))
    train(small(data, whole, **{**options, 'randomness.seed': seed}))
    assert (stopped / 'last_checkpoint').read_text().endswith('iter_8.pth')
    assert compare(whole, stopped) == []


def without_mixup(cfg):
    cfg.model.train_cfg = None
    cfg.model.head.loss.use_soft = False


@TRANSFORMS.register_module()
class Broken(BaseTransform):
    """Turns the images whose name holds ``name`` into NaN, as a faulty transform does."""

    def __init__(self, name):
        self.name = name

    def transform(self, results):
        if self.name in results['img_path']:
            results['img'] = np.full_like(results['img'], np.nan, dtype=np.float32)
        return results


class Weights(Hook):
    """Remembers the weights and the statistics of norms before training and after each step."""

    def before_train(self, runner):
        self.states = [{name: t.clone() for name, t in runner.model.state_dict().items()}]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append({name: t.clone() for name, t in runner.model.state_dict().items()})

    def changed(self, step):
        """The names of what the step (from 1) changed."""
        before, after = self.states[step - 1 : step + 1]
        return {name for name in after if not torch.equal(before[name], after[name])}


def test_a_step_with_an_image_of_nan_is_skipped(tiny, tmp_path):
    in_order = {'train_dataloader.sampler.shuffle': False, 'train_cfg.max_epochs': 1}
    cfg, weights = small(tiny('imagenet'), tmp_path, **in_order), Weights()
    without_mixup(cfg)  # which might give the image no share of its batch
    cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='Broken', name='c0/train_2'))  # the second batch
    train(cfg, weights)
    assert [bool(weights.changed(step)) for step in range(1, 5)] == [True, False, True, True]
    assert {'head.fc.weight', 'backbone.bn1.running_mean'} <= weights.changed(3)
    assert all(t.isfinite().all() for t in weights.states[-1].values())
    assert 'iteration 2: step skipped, loss is nan (1 in a row' in log_of(tmp_path)
    assert log_of(tmp_path).count('step skipped') == 1


ONE_LEFT = {'train_dataloader.batch_size': 5, 'train_dataloader.dataset.indices': 11, 'train_cfg.max_epochs': 1}


@pytest.mark.parametrize('kind', ['se_resnet18_apa', 'cbam_resnet50_apa', 'se_resnet50_meta-acon'])
def test_a_network_trains_on_a_last_batch_of_one_image(kind, tiny, tmp_path):
    """It sees 2x2 pixels of an image of 33 pixels, a single one of an image of 32."""
    cfg = narrow(load_config(ROOT / f'configs/imagenet/{kind}_in1k.py'), tiny('imagenet'), tmp_path)
    cfg.merge_from_dict(ONE_LEFT)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.default_hooks.checkpoint = None
    for step in cfg.train_dataloader.dataset.pipeline:
        step.update({key: 33 for key in ('scale',) if key in step})
    weights = Weights()
    train(cfg, weights)
    assert len(weights.states) == 4 and {'head.fc.weight', 'backbone.bn1.running_mean'} <= weights.changed(3)


def test_a_last_batch_of_one_image_of_one_pixel_is_refused_before_the_first_step(tiny, tmp_path):
    cfg, weights = small(tiny('imagenet'), tmp_path, **ONE_LEFT), Weights()
    with pytest.raises(
        SingleImage, match=r'the norm backbone.layer4.0.downsample.1 sees .* set train_dataloader.drop_last=True'
    ):
        train(cfg, weights)
    assert len(weights.states) == 1
    weights = Weights()
    train(small(tiny('imagenet'), tmp_path, **ONE_LEFT, **{'train_dataloader.drop_last': True}), weights)
    assert len(weights.states) == 3


def dumped(cfg, path):
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg._cfg_dict.to_dict().items()))
    return path


def dist_train(folder, cfg, *options):
    """Runs tools/dist_train.sh with two processes, which talk over gloo."""
    config = dumped(cfg, folder / 'config.py')
    command = ['bash', ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', cfg.work_dir, *options]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


@pytest.mark.slow
def test_two_processes_refuse_last_batches_of_one_image(tiny, tmp_path):
    """Each has six of the eleven images."""
    run = dist_train(tmp_path, small(tiny('imagenet'), tmp_path / 'work', **ONE_LEFT))
    lines = [line for line in run.stderr.splitlines() if 'the last batch of an epoch holds one image' in line]
    assert run.returncode != 0 and 'Traceback' not in run.stderr.split(lines[-1])[0]
    assert '(6 images in batches of 5)' in lines[0] and 'train_dataloader.drop_last=True' in lines[0]
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(tiny, tmp_path):
    """With norms in eval mode and images that nothing changes, the mean gradient is that of one process."""
    cfgs = [
        small(tiny('imagenet'), tmp_path / name, **{'train_dataloader.sampler.shuffle': False})
        for name in ('one', 'two')
    ]
    for cfg, batch in zip(cfgs, (4, 2), strict=True):
        without_mixup(cfg)
        cfg.model.backbone.update(norm_eval=True, se_cfg=dict(dropout=0.0))
        cfg.train_dataloader.batch_size = batch
        cfg.train_dataloader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline
        cfg.val_dataloader.dataset.split = 'train'  # eleven images: one process evaluates more of them than the other
        cfg.optim_wrapper.optimizer.lr = 0.1
        cfg.default_hooks.checkpoint.interval = 2
        cfg.randomness = dict(seed=0)
    train(cfgs[0])
    succeed(dist_train(tmp_path, cfgs[1]))
    one, two = (saved_at(tmp_path / name / 'iter_4.pth') for name in ('one', 'two'))
    start = saved_at(tmp_path / 'one/iter_2.pth')['state_dict']
    assert len(one['state_dict']) == len(two['state_dict']) > 100
    moved = 0
    for name, weight in one['state_dict'].items():
        torch.testing.assert_close(two['state_dict'][name], weight, rtol=1e-5, atol=1e-6, msg=name)
        moved += not torch.allclose(start[name], weight, rtol=1e-5, atol=1e-6)
    assert moved > 50
    steps = [logged(tmp_path / name)[2, False] for name in ('one', 'two')]
    assert steps[0][0]['accuracy/top1'] == steps[1][0]['accuracy/top1'] > 100 / 3


@pytest.mark.slow
def test_resume_of_two_processes_is_bitwise_equal(tiny, tmp_path):
    """Two steps an epoch: the checkpoint after the third is within the second."""
    stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
    options = {'randomness.seed': 3, 'train_cfg.max_epochs': 3}
    succeed(dist_train(tmp_path, small(tiny('imagenet'), whole, **options)))
    succeed(dist_train(tmp_path, small(tiny('imagenet'), stopped, **{**options, 'train_cfg.max_epochs': 2})))
    (stopped / 'iter_4.pth').unlink()  # as if the run had died before its fourth step
    (stopped / 'last_checkpoint').write_text(str(stopped / 'iter_3.pth'))
    succeed(dist_train(tmp_path, small(tiny('imagenet'), stopped, **options), '--resume'))
    assert (stopped / 'last_checkpoint').read_text().endswith('iter_6.pth')
    assert compare(whole, stopped) == []
