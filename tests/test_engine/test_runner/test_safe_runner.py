"""What SafeRunner adds to a run before its first step."""

import pytest
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from mmengine.runner import IterBasedTrainLoop, Runner, loops
from torch import nn

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.models.calibration import IIF
from apa_mmdet.models.losses import DropLoss


class Classifier(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.loss = DropLoss(2, **kwargs)


class Data(list):
    metainfo = dict(classes=('date', 'fig'))


LOADER = dict(dataset=Data([1, 2]), sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=0)


def runner_of(model, tmp_path):
    hooks, name = dict(logger=None), f'{tmp_path.name}_{id(model)}'
    return SafeRunner(
        model, str(tmp_path), default_scope='mmdet', cfg=Config(), default_hooks=hooks, experiment_name=name
    )


def train_loop(model, tmp_path):
    runner = runner_of(model, tmp_path)
    return runner.build_train_loop(IterBasedTrainLoop(runner, runner.build_dataloader(LOADER), max_iters=1))


def test_a_loss_gets_the_class_names_of_the_training_data_unless_it_has_some(tmp_path):
    for given, want in ((None, ('date', 'fig')), (('pear', 'fig'), ('pear', 'fig'))):
        model = Classifier(classes=given)
        train_loop(model, tmp_path)
        assert model.loss.classes == want


@pytest.mark.parametrize('split, loop_type', [('val', loops.ValLoop), ('test', loops.TestLoop)])
def test_a_calibration_gets_the_class_names_of_the_evaluated_data(split, loop_type, tmp_path):
    stats = dict(image_count=[2, 3, 5], names=['fig', 'kiwi', 'date'])
    for given, want in ((None, ('date', 'fig')), (('kiwi', 'fig'), ('kiwi', 'fig'))):
        model = nn.Sequential(IIF(stats, classes=given))
        runner = runner_of(model, tmp_path)
        loop = loop_type(runner, runner.build_dataloader(LOADER), Evaluator([]))
        getattr(runner, f'build_{split}_loop')(loop)
        assert model[0].classes == want and len(model[0].prior) == 2


@DATASETS.register_module()
class Three(list):
    """A data set of three numbers."""

    def __init__(self):
        super().__init__([1, 2, 3])


def test_a_loader_without_workers_has_none_to_keep():
    loader = dict(
        dataset=dict(type='Three'),
        batch_size=1,
        num_workers=0,
        persistent_workers=True,
        prefetch_factor=4,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    with pytest.raises(ValueError):
        Runner.build_dataloader(loader)
    assert [batch for (batch,) in SafeRunner.build_dataloader(loader, seed=0)] == [1, 2, 3]
    assert loader['persistent_workers'], 'the config was changed'
    assert SafeRunner.build_dataloader(dict(loader, num_workers=1)).persistent_workers
