import errno
import math
import shutil
from pathlib import Path

import pytest
from helpers.disk import files_no_larger_than, names
from helpers.tiny_runs import Points, log_of, saved_at, toy, train_until
from mmengine.evaluator import BaseMetric
from mmengine.fileio import FileClient, LocalBackend, register_backend
from mmengine.registry import METRICS
from mmengine.runner import FlexibleRunner

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.utils.fileio import AtomicLocalBackend


def full_disk(runner, first, last):
    """The runner; its checkpoints of these epochs may not be larger than 4 KiB."""
    save = runner.save_checkpoint

    def limited(*args, **kwargs):
        with files_no_larger_than(4096 if first <= runner.epoch + 1 <= last else 1 << 30):
            save(*args, **kwargs)

    runner.save_checkpoint = limited
    return runner


@METRICS.register_module()
class Given(BaseMetric):
    """Scores that are known before."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = self.scores.pop(0)
        return dict(acc=score, top=2 * score)


def validated_with(*scores, **options):
    """Options of a toy whose validations have these scores."""
    loader = dict(dataset=Points(), batch_size=12, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    return dict(val_cfg=dict(), val_dataloader=loader, val_evaluator=dict(type='Given', scores=scores), **options)


def logged(work_dir, level):
    return [line.split(' - ')[-1] for line in log_of(work_dir).splitlines() if f' - {level} - ' in line]


def test_training_goes_on_past_a_full_disk_and_keeps_the_previous_checkpoint(tmp_path):
    runner = full_disk(toy(tmp_path, epochs=4, max_keep_ckpts=1), 2, 3)
    train_until(runner, 13)
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    errors = logged(tmp_path, 'ERROR')
    assert len(errors) == 2 and 'epoch_2.pth could not be written (File too large, 0.' in errors[0]
    assert errors[0].endswith(': the checkpoint before it stays, training goes on and tries again at the next interval')
    resumed = toy(tmp_path, epochs=4, max_keep_ckpts=1, resume=True, name='resumed')
    resumed.train()
    assert names(tmp_path) == ['epoch_4.pth', 'last_checkpoint'] and resumed.iter == 16


def test_after_a_failed_checkpoint_the_next_interval_writes_again(tmp_path):
    runner = full_disk(toy(tmp_path, epochs=3, max_keep_ckpts=1), 2, 2)
    runner.train()
    assert names(tmp_path) == ['epoch_3.pth', 'last_checkpoint']
    info = saved_at(tmp_path / 'epoch_3.pth')['message_hub']['runtime_info']
    assert info['keep_ckpt_ids'] == [1, 3]


def test_a_failed_last_checkpoint_ends_the_run(tmp_path):
    runner = full_disk(toy(tmp_path), 2, 2)
    with pytest.raises(OSError, match='epoch_2.pth'):
        runner.train()
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']


def ready(work_dir, **checkpoint):
    """A toy before its first epoch, and its checkpoint hook."""
    runner = toy(work_dir, **checkpoint)
    hook = next(hook for hook in runner.hooks if hasattr(hook, 'save_best'))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    hook.before_train(runner)
    return runner, hook


def test_auto_is_the_overall_precision_of_masks_and_more_is_better(tmp_path):
    runner, hook = ready(tmp_path, save_best='auto')

    def validated(epoch, ap):
        runner.train_loop._epoch = epoch
        hook.after_val_epoch(
            runner, {'a_precision': 0.9, 'lvis/bbox_AP': 0.9, 'lvis/segm_APr': -1.0, 'lvis/segm_AP': ap}
        )
        return names(tmp_path)

    assert validated(1, -1.0) == validated(2, math.nan) == []  # of nothing
    assert validated(3, 0.1) == ['best_lvis_segm_AP_epoch_3.pth']
    assert validated(4, 0.05) == ['best_lvis_segm_AP_epoch_3.pth']
    assert validated(5, 0.2) == ['best_lvis_segm_AP_epoch_5.pth']


def test_a_metric_that_is_not_given_costs_a_line_and_not_the_run(tmp_path):
    runner, hook = ready(tmp_path, save_best='lvis/segm_APr')  # without a rule
    hook.after_val_epoch(runner, {'lvis/segm_AP': 0.5})
    assert logged(tmp_path, 'ERROR') == [
        'save_best=lvis/segm_APr: no such metric, so that no best checkpoint is saved; there are lvis/segm_AP'
    ]
    assert names(tmp_path) == []


def test_the_best_checkpoint_stays_until_a_better_one_is_complete(tmp_path):
    runner, hook = ready(tmp_path, save_best='acc')

    def validated(epoch, accuracy, limit=1 << 30):
        runner.train_loop._epoch = epoch
        with files_no_larger_than(limit):
            hook.after_val_epoch(runner, dict(acc=accuracy))
        return names(tmp_path)

    assert validated(1, 0.1) == ['best_acc_epoch_1.pth']
    assert validated(2, 0.3, limit=4096) == ['best_acc_epoch_1.pth']
    assert runner.message_hub.get_info('best_score') == 0.1, 'a best that could not be kept must not bar a lesser one'
    assert validated(3, 0.2) == ['best_acc_epoch_3.pth'] and hook.best_ckpt_path.endswith('epoch_3.pth')
    assert validated(4, 0.15) == ['best_acc_epoch_3.pth']


@pytest.mark.parametrize('resume', [False, True])
def test_checkpoints_of_one_name_are_replaced_and_not_removed(resume, tmp_path):
    same = dict(filename_tmpl='latest.pth', max_keep_ckpts=1)
    toy(tmp_path, **same).train()
    assert names(tmp_path) == ['last_checkpoint', 'latest.pth']
    toy(tmp_path, epochs=3, resume=resume, name='again', **same).train()
    assert names(tmp_path) == ['last_checkpoint', 'latest.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'latest.pth')
    assert saved_at(tmp_path / 'latest.pth')['meta']['epoch'] == 3


def test_best_checkpoints_of_one_name_are_replaced_and_not_removed(tmp_path):
    iterations = validated_with(
        0.1,
        0.2,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
        log_processor=dict(by_epoch=False),
    )
    toy(tmp_path, save_best='acc', rule='greater', options=iterations).train()  # by_epoch=True counts no iterations
    assert names(tmp_path) == ['best_acc_epoch_0.pth', 'epoch_1.pth', 'last_checkpoint']
    assert saved_at(tmp_path / 'best_acc_epoch_0.pth')['meta']['iter'] == 4


def test_a_failed_best_checkpoint_after_the_last_epoch_is_no_error(tmp_path):
    full_disk(toy(tmp_path, save_best='acc', rule='greater', options=validated_with(0.1, 0.2)), 3, 3).train()
    assert names(tmp_path) == ['best_acc_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']
    assert 'best_acc_epoch_2.pth could not be written' in logged(tmp_path, 'ERROR')[0]
    assert logged(tmp_path, 'ERROR')[0].endswith('the next validation that beats it tries again')


def test_an_old_file_that_cannot_be_removed_is_logged_and_the_new_one_counts(tmp_path):

    class Keeps(AtomicLocalBackend):
        def remove(self, filepath):
            raise PermissionError(errno.EPERM, 'Operation not permitted', filepath)

    register_backend('keeps', Keeps, force=True)
    options = dict(max_keep_ckpts=1, backend_args=dict(backend='keeps'))
    toy(tmp_path / 'work', **options).train()
    resumed = toy(tmp_path / 'work', epochs=3, resume=True, name='resumed', **options)
    resumed.train()
    assert names(tmp_path / 'work') == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']
    assert (tmp_path / 'work/last_checkpoint').read_text().endswith('epoch_3.pth') and resumed.iter == 12
    warnings = [line for line in logged(tmp_path / 'work', 'WARNING') if 'outdated' in line]
    assert 'epoch_1.pth is outdated and could not be removed (Operation not permitted): training goes on' in warnings[0]
    assert len(warnings) == 3 and logged(tmp_path / 'work', 'ERROR') == []


def test_checkpoints_of_a_flexible_runner_are_complete_or_absent(tmp_path):
    runner = toy(
        tmp_path, epochs=3, runner_type=FlexibleRunner, options=dict(strategy=dict(type='SingleDeviceStrategy'))
    )
    full_disk(runner, 2, 2).train()
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_3.pth', 'last_checkpoint']
    assert 'epoch_2.pth could not be written (File too large' in logged(tmp_path, 'ERROR')[0]


def test_a_published_checkpoint_is_complete_or_absent(tmp_path):
    def published(folder, limit):
        runner = toy(folder, published_keys=['meta', 'state_dict'])
        hook = next(hook for hook in runner.hooks if hasattr(hook, 'published_keys'))
        publish = hook.after_train

        def limited(runner):
            with files_no_larger_than(limit):
                publish(runner)

        hook.after_train = limited
        runner.train()

    with pytest.raises(OSError, match='File too large, 0.0 MiB to write'):
        published(tmp_path / 'full', 2048)
    published(tmp_path / 'free', 1 << 30)
    assert names(tmp_path / 'full') == ['epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']
    (extra,) = set(names(tmp_path / 'free')) - set(names(tmp_path / 'full'))
    assert extra.startswith('epoch_2-') and set(saved_at(tmp_path / 'free' / extra)) == {'meta', 'state_dict'}


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path):
    toy(tmp_path, epochs=2, max_keep_ckpts=1).train()
    (tmp_path / 'epoch_1.pth').write_bytes(b'killed before it was removed')
    (tmp_path / 'epoch_3.pth.unfinished').write_bytes(b'killed while it was written')
    (tmp_path / 'sharded.pth.unfinished').mkdir()
    runner = toy(tmp_path, epochs=3, max_keep_ckpts=1, resume=True, name='resumed')
    train_until(runner, 9)
    assert names(tmp_path) == ['epoch_2.pth', 'last_checkpoint']
    assert 'removed ' in log_of(tmp_path) and 'epoch_3.pth.unfinished' in log_of(tmp_path)


def test_remote_storage_is_written_by_its_own_backend(tmp_path):

    class Bucket(LocalBackend):
        """Keeps files in a folder, as a store does under a bucket's name."""

        def put(self, obj, filepath):
            (tmp_path / 'bucket').mkdir(exist_ok=True)
            (tmp_path / 'bucket' / Path(filepath).name).write_bytes(obj)

        def isfile(self, filepath):
            return (tmp_path / 'bucket' / Path(filepath).name).is_file()

        def remove(self, filepath):
            (tmp_path / 'bucket' / Path(filepath).name).unlink()

    register_backend('bucket', Bucket, force=True, prefixes='bucket')
    FileClient.register_backend('bucket', Bucket, force=True, prefixes='bucket')  # MMEngine looks there as well
    toy(tmp_path / 'work', out_dir='bucket://runs', max_keep_ckpts=1).train()
    assert names(tmp_path / 'bucket') == ['epoch_2.pth'] and names(tmp_path / 'work') == ['last_checkpoint']
    assert (tmp_path / 'work/last_checkpoint').read_text() == 'bucket://runs/work/epoch_2.pth'


# ---------------------------------------------------------------- runs that were moved or copied


def best_of(folder):
    (best,) = [name for name in names(folder) if name.startswith('best')]
    return best


def trained_with_best(work_dir, epochs, **options):
    scores = [0.1 * (epoch + 1) for epoch in range(9)]
    begun, save_best = options.pop('begun', 0), options.pop('save_best', 'acc')
    runner = toy(
        work_dir,
        epochs=epochs,
        save_best=save_best,
        rule='greater',
        name=f'{begun}-{epochs}',
        runner_type=SafeRunner,
        options=validated_with(*scores[begun:], **options),
    )
    runner.train()
    return runner


@pytest.mark.parametrize('save_best, key', [('acc', 'best_ckpt'), (['acc', 'top'], 'best_ckpt_acc')])
def test_a_run_that_resumes_another_leaves_its_files_alone(save_best, key, tmp_path):
    trained_with_best(tmp_path / 'a', 1, save_best=save_best)
    before = names(tmp_path / 'a')
    begun = dict(begun=1, load_from=str(tmp_path / 'a/epoch_1.pth'), resume=True)
    runner = trained_with_best(tmp_path / 'b', 3, save_best=save_best, **begun)
    assert names(tmp_path / 'a') == before and 'best_acc_epoch_3.pth' in names(tmp_path / 'b')
    assert not [name for name in names(tmp_path / 'b') if name.endswith('epoch_2.pth') and 'best' in name]
    assert runner.message_hub.get_info(key) == str(tmp_path / 'b/best_acc_epoch_3.pth')
    assert 'a/best_acc_epoch_1.pth, the best checkpoint so far, is of another run' in log_of(tmp_path / 'b')


@pytest.mark.parametrize('moved', [False, True])
def test_a_run_that_was_copied_or_moved_resumes_from_its_own_files(moved, tmp_path):
    trained_with_best(tmp_path / 'a', 1)
    before = names(tmp_path / 'a')
    (shutil.move if moved else shutil.copytree)(tmp_path / 'a', tmp_path / 'b')
    runner = trained_with_best(tmp_path / 'b', 2, begun=1, resume=True)
    assert f'Auto resumed from the latest checkpoint {tmp_path}/b/epoch_1.pth' in log_of(tmp_path / 'b')
    assert runner.iter == 8 and best_of(tmp_path / 'b') == 'best_acc_epoch_2.pth'
    assert moved or names(tmp_path / 'a') == before


def test_checkpoints_in_an_out_dir_are_found_after_the_work_dir_was_moved(tmp_path):
    toy(tmp_path / 'first/run', epochs=1, out_dir=str(tmp_path / 'out')).train()
    (tmp_path / 'second').mkdir()
    shutil.move(tmp_path / 'first/run', tmp_path / 'second/run')
    shutil.move(tmp_path / 'out', tmp_path / 'other')
    resumed = toy(
        tmp_path / 'second/run', epochs=2, out_dir=str(tmp_path / 'other'), resume=True, runner_type=SafeRunner
    )
    resumed.train()
    assert resumed.iter == 8 and names(tmp_path / 'other/run') == ['epoch_1.pth', 'epoch_2.pth']
