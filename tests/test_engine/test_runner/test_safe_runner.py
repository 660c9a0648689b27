"""What SafeRunner adds to a run before its first step."""

from mmengine.config import Config
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.models.losses import DropLoss


class Classifier(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.loss = DropLoss(2, **kwargs)


class Data(list):
    metainfo = dict(classes=('date', 'fig'))


def train_loop(model, tmp_path):
    hooks, name = dict(logger=None), f'{tmp_path.name}_{id(model)}'
    runner = SafeRunner(
        model, str(tmp_path), default_scope='mmdet', cfg=Config(), default_hooks=hooks, experiment_name=name
    )
    loader = dict(dataset=Data([1, 2]), sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=0)
    return runner.build_train_loop(IterBasedTrainLoop(runner, runner.build_dataloader(loader), max_iters=1))


def test_a_loss_gets_the_class_names_of_the_training_data_unless_it_has_some(tmp_path):
    for given, want in ((None, ('date', 'fig')), (('pear', 'fig'), ('pear', 'fig'))):
        model = Classifier(classes=given)
        train_loop(model, tmp_path)
        assert model.loss.classes == want
