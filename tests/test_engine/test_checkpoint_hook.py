import errno
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mmengine.fileio import FileClient, LocalBackend, register_backend
from tinier import Stop, log_of, toy

from apa_mmdet.engine import WholeFileBackend


@contextmanager
def files_no_larger_than(size):
    """The kernel refuses to let a file grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_disk(runner, first, last):
    """The runner, with no file larger than 4 KiB for its checkpoints from one epoch to another."""
    save = runner.save_checkpoint

    def limited(*args, **kwargs):
        with files_no_larger_than(4096 if first <= runner.epoch + 1 <= last else 1 << 30):
            save(*args, **kwargs)

    runner.save_checkpoint = limited
    return runner


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir() if p.is_file() and p.suffix != '.py')


def test_a_file_that_cannot_be_written_is_what_it_was_before(tmp_path):
    path = tmp_path / 'file'
    WholeFileBackend().put(b'old', path)
    with files_no_larger_than(1 << 20), pytest.raises(OSError) as caught:
        WholeFileBackend().put(bytes(3 << 20), path)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert '3.0 MiB to write' in caught.value.strerror and 'MiB free' in caught.value.strerror
    assert path.read_bytes() == b'old' and names(tmp_path) == ['file']


def test_a_full_disk_says_how_much_is_free(tmp_path):
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', tmp_path], capture_output=True).returncode:
        pytest.skip('no right to mount a small file system')
    try:
        WholeFileBackend().put(b'old', tmp_path / 'file')
        with pytest.raises(OSError, match=r'No space left on device, 2.0 MiB to write, 1.0 MiB free') as caught:
            WholeFileBackend().put(bytes(2 << 20), tmp_path / 'file')
        assert caught.value.errno == errno.ENOSPC
        assert (tmp_path / 'file').read_bytes() == b'old' and names(tmp_path) == ['file']
    finally:
        subprocess.run(['umount', tmp_path], check=True)


def test_training_goes_on_past_a_full_disk_and_keeps_the_checkpoint_before(tmp_path):
    runner = full_disk(toy(tmp_path, epochs=4, max_keep_ckpts=1), 2, 3)
    runner.register_hook(Stop(13), 'LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    said = [line for line in log_of(tmp_path).splitlines() if 'ERROR' in line]
    assert len(said) == 2 and 'epoch_2.pth could not be written (File too large, 0.' in said[0]
    assert 'the checkpoint before it stays, training goes on' in said[0]
    resumed = toy(tmp_path, epochs=4, max_keep_ckpts=1, resume=True, name='resumed')
    resumed.train()
    assert names(tmp_path) == ['epoch_4.pth', 'last_checkpoint'] and resumed.iter == 16


def test_the_next_interval_writes_again(tmp_path):
    runner = full_disk(toy(tmp_path, epochs=3, max_keep_ckpts=1), 2, 2)
    runner.train()
    assert names(tmp_path) == ['epoch_3.pth', 'last_checkpoint']
    info = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)['message_hub']['runtime_info']
    assert info['keep_ckpt_ids'] == [1, 3]


def test_the_last_checkpoint_has_no_next_interval(tmp_path):
    runner = full_disk(toy(tmp_path), 2, 2)
    with pytest.raises(OSError, match='epoch_2.pth'):
        runner.train()
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']


def test_the_best_checkpoint_stays_until_a_better_one_stands(tmp_path):
    runner = toy(tmp_path, save_best='acc')
    hook = next(hook for hook in runner.hooks if hasattr(hook, 'save_best'))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    hook.before_train(runner)

    def validated(epoch, accuracy, limit=1 << 30):
        runner.train_loop._epoch = epoch
        with files_no_larger_than(limit):
            hook.after_val_epoch(runner, dict(acc=accuracy))
        return names(tmp_path)

    assert validated(1, .1) == ['best_acc_epoch_1.pth']
    assert validated(2, .3, limit=4096) == ['best_acc_epoch_1.pth']
    assert runner.message_hub.get_info('best_score') == .1, 'a best that could not be kept must not bar a lesser one'
    assert validated(3, .2) == ['best_acc_epoch_3.pth'] and hook.best_ckpt_path.endswith('epoch_3.pth')
    assert validated(4, .15) == ['best_acc_epoch_3.pth']


def test_what_a_killed_run_left_behind_is_cleared_away(tmp_path):
    toy(tmp_path, epochs=2, max_keep_ckpts=1).train()
    (tmp_path / 'epoch_1.pth').write_bytes(b'killed before it was removed')
    (tmp_path / 'epoch_3.pth.unfinished').write_bytes(b'killed while it was written')
    runner = toy(tmp_path, epochs=3, max_keep_ckpts=1, resume=True, name='resumed')
    runner.register_hook(Stop(9), 'LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert names(tmp_path) == ['epoch_2.pth', 'last_checkpoint']
    assert 'removed ' in log_of(tmp_path) and 'epoch_3.pth.unfinished' in log_of(tmp_path)


def test_remote_storage_is_left_to_its_own_backend(tmp_path):

    class Bucket(LocalBackend):
        """Keeps what it is told under a folder, as a store does under a bucket's name."""

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
