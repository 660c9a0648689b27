import random

import pytest
import torch
from helpers.tiny_runs import Points, Stop, log_of, toy, train_until
from torch.utils.data import DataLoader


class Shaken(Points):
    """Points, each multiplied by a random number."""

    def __getitem__(self, index):
        return dict(inputs=super().__getitem__(index)['inputs'] * (1 + random.random()))


ITERATIONS = dict(train_cfg=dict(type='ResumableIterBasedTrainLoop', max_iters=8), log_processor=dict(by_epoch=False))


@pytest.mark.parametrize('options', [{}, ITERATIONS], ids=['epochs', 'iterations'])
def test_a_run_resumed_with_another_number_of_workers_equals_the_uninterrupted_one(options, tmp_path):
    weights = []
    for work_dir, stop, resume, workers in (('whole', 0, False, 0), ('parts', 3, False, 0), ('parts', 0, True, 2)):
        runner = toy(
            tmp_path / work_dir,
            dataset=Shaken(),
            resume=resume,
            name=f'{stop}',
            by_epoch=False,
            interval=1,
            loader=dict(num_workers=workers),
            options=options,
        )
        runner.register_hook(Stop(stop), 'LOWEST')
        try:
            runner.train()
        except KeyboardInterrupt:
            assert runner.iter == 2
        weights.append(runner.model.state_dict())
    assert runner.iter == 8 and all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]['conv.weight'], weights[1]['conv.weight'])


def warnings(work_dir):
    lines = [line.split(' - WARNING - ')[-1] for line in log_of(work_dir).splitlines() if ' - WARNING - ' in line]
    return [line for line in lines if 'uninterrupted' in line]


def test_a_resumed_run_logs_why_it_differs_from_the_uninterrupted_one(tmp_path):
    runner = toy(tmp_path)
    train_until(runner, 6)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        fewer = torch.utils.data.Subset(Points(), range(9))
        toy(tmp_path, dataset=fewer, resume=True, name='resumed').train()
    finally:
        torch.set_num_threads(threads)
    assert warnings(tmp_path) == [
        'the resumed run differs from the uninterrupted one: batches in an epoch 4 then, 3 now; '
        f'threads {threads} then, {threads + 1} now'
    ]


@pytest.mark.parametrize('kind, length', [('Epoch', dict(max_epochs=1)), ('Iter', dict(max_iters=1))])
def test_another_loop_is_named_with_the_one_to_set(kind, length, tmp_path):
    cfg = dict(type=f'{kind}BasedTrainLoop', **length)
    toy(tmp_path, options=dict(train_cfg=cfg, log_processor=dict(by_epoch=kind == 'Epoch'))).train()
    assert warnings(tmp_path) == [
        f'a resumed run may differ from the uninterrupted one: train_cfg.type is {kind}BasedTrainLoop; '
        f"set it to 'Resumable{kind}BasedTrainLoop'"
    ]


def test_a_data_loader_that_is_no_config_is_used_as_it_is_and_named(tmp_path):
    loader = DataLoader(Points(), batch_size=3, collate_fn=lambda items: dict(inputs=[one['inputs'] for one in items]))
    runner = toy(tmp_path, epochs=1, options=dict(train_dataloader=loader))
    runner.train()
    assert runner.iter == 4 and runner.train_dataloader is loader
    assert warnings(tmp_path) == [
        'a resumed run may differ from the uninterrupted one: train_dataloader is a DataLoader; pass its config instead'
    ]


def test_a_checkpoint_without_the_hook_is_resumed_with_a_warning(tmp_path):
    runner = toy(tmp_path, epochs=1)
    runner._hooks = [hook for hook in runner._hooks if type(hook).__name__ != 'ExactResumeHook']
    runner.train()
    resumed = toy(tmp_path, resume=True, name='resumed')
    resumed.train()
    assert resumed.iter == 8 and warnings(tmp_path) == [
        'the resumed run differs from the uninterrupted one: the checkpoint was written without ExactResumeHook'
    ]
