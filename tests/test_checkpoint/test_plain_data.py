"""What a run saves is read by ``torch.load(weights_only=True)``, and continues with the same logs."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from helpers.tiny_runs import toy
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import OneCycleParamScheduler

from apa_mmdet.checkpoint.plain_data import as_plain, make_plain, restore_logs


def kinds(value):
    """The types in a nested value."""
    if isinstance(value, dict):
        return {type(value)}.union(*(kinds(part) for pair in value.items() for part in pair))
    if isinstance(value, (list, tuple)):
        return {type(value)}.union(*map(kinds, value))
    return {type(value)}


def test_every_value_becomes_plain_and_keeps_its_meaning():
    value = dict(
        best=np.float64(0.25),
        flags=(np.bool_(True), np.int64(3)),
        meta=ConfigDict(classes=('a', 'b'), palette=[(1, 2, 3)], scale=np.array([[1.0, 2.0]], np.float32)),
        folder=Path('a/b'),
        names=np.array(['a', 'b']),
        labels={np.int64(1): 'a'},
    )
    plain = as_plain(value)
    assert plain == dict(
        best=0.25,
        flags=(True, 3),
        meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)], scale=[[1.0, 2.0]]),
        folder='a/b',
        names=['a', 'b'],
        labels={1: 'a'},
    )
    assert kinds(plain) <= {dict, list, tuple, str, int, float, bool}


def test_what_is_plain_already_stays_the_same_object():
    weights = OrderedDict(a=torch.ones(2))
    weights._metadata = OrderedDict()
    for value in (weights, dict(a=[1, (2, None)], b={1, 2}), torch.Size([2])):
        assert as_plain(value) is value


def test_logs_come_back_bit_for_bit(tmp_path):
    log = HistoryBuffer([0.1, 1 / 3, 5.0], [1, 2, 4], max_length=7)
    content = dict(message_hub=dict(log_scalars=OrderedDict(loss=log, empty=HistoryBuffer()), runtime_info={}))
    make_plain(content)
    torch.save(content, tmp_path / 'a.pth')
    read = torch.load(tmp_path / 'a.pth', weights_only=True)
    restore_logs(read)
    back, empty = (read['message_hub']['log_scalars'][name] for name in ('loss', 'empty'))
    assert type(back) is HistoryBuffer and back.max_length == 7 and len(empty.data[0]) == 0
    for ours, theirs in zip(back.data, log.data):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    back.update(2.0)
    assert back.mean(2) == (5.0 + 2.0) / (4 + 1), 'as of the values and counts that were logged'


def test_logs_of_older_checkpoints_stay_what_they_are():
    log = HistoryBuffer([1.0], [1])
    for hub in (dict(log_scalars=dict(loss=log)), dict(log_scalars=None), None, log):
        content = dict(message_hub=hub)
        restore_logs(content)
        assert content['message_hub'] is hub
    assert log.data[0].tolist() == [1.0]


def test_the_functions_of_a_scheduler_are_not_saved():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, momentum=0.9)

    def scheduler():
        return OneCycleParamScheduler(optimizer, 'lr', eta_max=1.0, total_steps=10)

    states = [scheduler().state_dict()]
    assert any(map(callable, states[0].values()))
    for content in (dict(param_schedulers=[*states]), dict(param_schedulers=dict(a=[*states]))):
        make_plain(content)
        saved = content['param_schedulers']
        (state,) = saved['a'] if isinstance(saved, dict) else saved
        assert not any(map(callable, state.values()))
        again = scheduler()
        again.load_state_dict(state)
        assert callable(again.anneal_func)


def test_a_checkpoint_of_a_run_is_plain_and_resumes_with_its_logs(tmp_path):
    first = toy(tmp_path, options=dict(param_scheduler=[dict(type='OneCycleLR', eta_max=0.01, total_steps=16)]))
    first.train()
    content = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    assert {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'} == content.keys()
    assert kinds(content) <= {dict, OrderedDict, list, tuple, str, int, float, bool, type(None), torch.Tensor}
    resumed = toy(
        tmp_path,
        epochs=2,
        resume=True,
        name='resumed',
        options=dict(
            load_from=str(tmp_path / 'epoch_1.pth'),
            param_scheduler=[dict(type='OneCycleLR', eta_max=0.01, total_steps=16)],
        ),
    )
    resumed.train()
    for name in ('train/loss', 'train/lr'):
        logs = [runner.message_hub.get_scalar(name).data for runner in (first, resumed)]
        assert np.array_equal(logs[0][0], logs[1][0]) and len(logs[0][0]) == 8


def test_mmengine_reads_plain_logs_without_the_hook_and_names_what_it_skips():
    hub = MessageHub('sender')
    hub.update_scalar('train/loss', 0.5)
    hub.update_info('epoch', 3)
    content = dict(message_hub=hub.state_dict())
    make_plain(content)
    other = MessageHub('receiver')
    other.load_state_dict(content['message_hub'])
    assert other.get_info('epoch') == 3 and 'train/loss' not in other.log_scalars
    assert type(hub.get_scalar('train/loss')) is HistoryBuffer, 'the run itself keeps its logs'
