"""SafeRunner refuses checkpoints that do not fit, and says what a training starts without."""

import pytest
import torch
from helpers.tiny_runs import Points, Toy, log_of, saved_at, toy
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import nn

from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.io import BadCheckpoint
from apa_mmdet.engine.runner import SafeRunner


@METRICS.register_module()
class Counted(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(images=sum(results))


class Named(Points):
    metainfo = dict(classes=('date', 'fig'))


def weights_of(model, path, classes=None, **changes):
    torch.save(dict(state_dict={**model.state_dict(), **changes}, meta=dict(dataset_meta=dict(classes=classes))), path)
    return str(path)


def evaluated(work_dir, path):
    loader = dict(dataset=Named(), batch_size=12, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    options = dict(test_cfg=dict(), test_dataloader=loader, test_evaluator=dict(type='Counted'), load_from=path)
    return toy(work_dir, runner_type=SafeRunner, options=options).test()


def started(work_dir, path, model=None):
    options = dict(load_from=path, **(dict(model=model) if model else {}))
    runner = toy(work_dir, dataset=Named(), epochs=1, runner_type=SafeRunner, options=options, interval=-1)
    runner.train()
    return runner


def resumed(work_dir, path, **checkpoint):
    toy(work_dir, runner_type=SafeRunner, resume=True, options=dict(load_from=str(path)), **checkpoint).train()


def test_a_test_needs_every_weight_in_its_shape(tmp_path):
    whole = Toy().state_dict()
    some = {name: tensor for name, tensor in whole.items() if not name.startswith('act')}
    torch.save(some, tmp_path / 'some.pth')
    torch.save(dict(whole, **{'out.weight': torch.zeros(5, 16), 'out.bias': torch.zeros(5)}), tmp_path / 'five.pth')
    for name, line in (
        ('some.pth', '2 missing, first act.lambda_'),
        ('five.pth', r'out.weight: \(5, 16\), not \(2, 1'),
    ):
        with pytest.raises(WrongWeights, match=f'{name} does not fit the model of the config: .*{line}'):
            evaluated(tmp_path / 'work', str(tmp_path / name))


def test_a_test_goes_without_counters_and_ignores_names_of_other_parts(tmp_path):
    whole = Toy().state_dict()
    del whole['norm.num_batches_tracked']
    torch.save(dict(whole, **{'auxiliary_head.weight': torch.zeros(1)}), tmp_path / 'a.pth')
    assert evaluated(tmp_path / 'work', str(tmp_path / 'a.pth')) == dict(images=12)


@pytest.mark.parametrize(
    'classes, line',
    [
        (('fig', 'date'), "in another order: 2 of 2 differ, the first is 'fig' there and 'date' here; labels mean"),
        (('date', 'plum'), "with other names: 1 of 2 differ, the first is 'plum' there and 'fig' here; labels mean"),
        (['date', 'fig'], None),
        (None, None),
    ],
)
def test_a_test_warns_where_the_classes_are_others(classes, line, tmp_path):
    evaluated(tmp_path / 'work', weights_of(Toy(), tmp_path / 'a.pth', classes))
    log = log_of(tmp_path / 'work')
    assert ('was trained on classes' in log) == bool(line) and (line or '') in log


def test_a_training_starts_with_another_classifier_and_names_what_is_new(tmp_path):
    source = Toy()
    changes = {'out.weight': torch.zeros(5, 16), 'out.bias': torch.zeros(5)}
    runner = started(tmp_path / 'work', weights_of(source, tmp_path / 'a.pth', ('a', 'b', 'c'), **changes))
    log = log_of(tmp_path / 'work')
    assert 'weights are not in' in log and 'or not in this shape, and stay as initialized: out.weight, out.bias' in log
    assert 'frozen' not in log.split('stay as initialized')[1].split('\n')[0] and 'trained on classes' not in log
    assert (runner.model.conv.weight - source.conv.weight).abs().max() < 0.1, 'what fits is loaded'


def test_a_training_says_loudly_what_is_new_and_frozen(tmp_path):
    model = Toy()
    model.norm.requires_grad_(False)
    state = {name: tensor for name, tensor in Toy().state_dict().items() if not name.startswith('norm')}
    torch.save(state, tmp_path / 'a.pth')
    started(tmp_path / 'work', str(tmp_path / 'a.pth'), model)
    assert '2 of these are frozen and will never be trained: norm.weight, norm.bias' in log_of(tmp_path / 'work')


def test_a_training_names_the_weights_of_other_activations_that_it_ignores(tmp_path):
    changes = {'act.p1': torch.ones(4), 'auxiliary_head.weight': torch.ones(1)}
    started(tmp_path / 'work', weights_of(Toy(), tmp_path / 'a.pth', **changes))
    assert '1 weights of' in log_of(tmp_path / 'work') and 'activations: act.p1\n' in log_of(tmp_path / 'work')


@pytest.mark.parametrize(
    'content, code',
    [
        ({'stem.weight': torch.zeros(1)}, 'nothing-in-common'),
        ({'norm.bias': torch.full((4,), torch.nan)}, 'not-finite'),
    ],
)
def test_a_training_does_not_start_from_anything(content, code, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(WrongWeights) as refused:
        started(tmp_path / 'work', str(tmp_path / 'a.pth'))
    assert refused.value.code == code


@pytest.mark.parametrize('content', [[1, 2], dict(meta=3, state_dict={})])
def test_what_holds_no_weights_is_refused_by_every_start(content, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    for start in (evaluated, started, resumed):
        with pytest.raises(BadCheckpoint, match='a.pth holds no weights'):
            start(tmp_path / start.__name__, str(tmp_path / 'a.pth'))


class Teacher(Toy):
    """Takes the weights of a plain toy under a name of its own, as detectors with a student and a teacher do."""

    def _load_from_state_dict(self, state_dict, *args):
        for name in [name for name in state_dict if name.startswith('old.')]:
            state_dict[name.replace('old.', 'out.')] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, *args)


def test_names_that_the_model_translates_while_loading_fit(tmp_path):
    source = {name.replace('out.', 'old.'): tensor for name, tensor in Toy().state_dict().items()}
    torch.save(source, tmp_path / 'a.pth')
    runner = started(tmp_path / 'work', str(tmp_path / 'a.pth'), Teacher())
    assert isinstance(runner.model.out, nn.Linear) and 'as initialized' not in log_of(tmp_path / 'work')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    toy(folder, epochs=1, name='finished').train()
    return saved_at(folder / 'epoch_1.pth')


@pytest.mark.parametrize('lost', [('optimizer',), ('param_schedulers',), ('message_hub', 'optimizer')])
def test_weights_without_the_states_of_a_training_are_not_resumed(finished, lost, tmp_path):
    torch.save({key: value for key, value in finished.items() if key not in lost}, tmp_path / 'a.pth')
    schedule = dict(param_scheduler=[dict(type='MultiStepLR', milestones=[5])])
    runner = toy(
        tmp_path / 'work', runner_type=SafeRunner, resume=True, options=dict(load_from=f'{tmp_path}/a.pth', **schedule)
    )
    with pytest.raises(
        BadCheckpoint, match=f'a.pth cannot be resumed, it holds no .*load_from={tmp_path}/a.pth$'
    ) as bad:
        runner.train()
    assert bad.value.code == 'not-resumable'


def test_a_run_that_saves_no_optimizer_is_resumed_with_a_warning(finished, tmp_path):
    torch.save({key: value for key, value in finished.items() if key != 'optimizer'}, tmp_path / 'a.pth')
    resumed(tmp_path / 'work', tmp_path / 'a.pth', save_optimizer=False)
    assert 'a.pth holds no optimizer: the optimizer starts again' in log_of(tmp_path / 'work')


def test_resuming_weights_of_another_model_is_refused(finished, tmp_path):
    state = {name: tensor for name, tensor in finished['state_dict'].items() if name != 'out.bias'}
    torch.save(dict(finished, state_dict=state), tmp_path / 'a.pth')
    with pytest.raises(WrongWeights, match='1 missing, first out.bias'):
        resumed(tmp_path / 'work', tmp_path / 'a.pth')
