"""tools/train.py and tools/test.py with configs of classifiers; official checkpoints through both."""

import json
import pickle
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from helpers.paths import DATA, ROOT
from helpers.programs import start_program, succeed
from helpers.recordings import value
from helpers.tiny_runs import log_of
from mmengine.fileio import load
from mmengine.registry import DefaultScope
from packaging.utils import canonicalize_name
from test_checkpoint.test_classifier_names import network
from test_requirements import dependencies, from_torch, pins

from apa_mmdet.apis import mmdet_tools
from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.checkpoint.class_order import BadClassOrder
from apa_mmdet.checkpoint.io import read_checkpoint
from apa_mmdet.checkpoint.official_names import classifier_names

NAME = 'se_resnet32_cifar_lr_cosine'
CIFAR = str(ROOT / 'configs/cifar100_lt/se_resnet32_apa_lr-cosine_cifar100-lt.py')
SMALL = 'model.backbone.base_channels=4 model.backbone.stem_channels=4 model.head.in_channels=32 val_evaluator.topk=1'
R18 = str(ROOT / 'configs/imagenet/se_resnet18_apa_in1k.py')


@pytest.fixture
def official(tmp_path):
    keys = json.loads((DATA / f'classifier_{NAME}_keys.json').read_text())
    weights = {key: torch.from_numpy(value(key, shape)) for key, shape in keys.items()}
    torch.save(dict(model=weights), tmp_path / 'official.pth')
    return weights


def start(monkeypatch, folder, tool, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    with DefaultScope.overwrite_default_scope(None):
        mmdet_tools.run(tool)


def test_an_official_checkpoint_is_evaluated_and_comes_back(official, tiny, tmp_path, monkeypatch, no_checksums):
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back.pth'
    assert f'for tools/test.py {CIFAR}' in convert_file(tmp_path / 'official.pth', ours, config=CIFAR)
    assert 'for the official code' in convert_file(ours, back, config=CIFAR, to_official=True)
    returned = torch.load(back, weights_only=True)['model']
    assert list(returned) == list(official) and all(torch.equal(returned[k], official[k]) for k in official)

    root, out = tiny('cifar100_lt'), tmp_path / 'out.pkl'
    options = f'data_root={root} test_dataloader.num_workers=0 test_dataloader.dataset.serialize_data=False'.split()
    start(monkeypatch, tmp_path, 'test.py', CIFAR, ours, '--out', out, '--cfg-options', *options)
    scores = torch.stack([sample['pred_score'] for sample in load(out)])
    images = pickle.loads((root / 'cifar-100-python/test').read_bytes())['data'].reshape(-1, 3, 32, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([129.304, 124.070, 112.434], [68.170, 65.392, 70.418]))
    with DefaultScope.overwrite_default_scope('mmdet'):
        net, names = network(NAME, 100), classifier_names(official)
    net.load_state_dict({names[key]: tensor for key, tensor in official.items()}, assign=True)
    with torch.no_grad():
        (features,) = net.eval().backbone((torch.from_numpy(images) - mean) / std)
        want = net.head.fc(features.mean((2, 3))).softmax(1)
    torch.testing.assert_close(scores, want, rtol=1e-4, atol=1e-6)


def test_classes_of_an_official_checkpoint_take_the_numbers_of_the_data_set(official, tmp_path):
    paths = original, ours, back = [tmp_path / f'{name}.pth' for name in ('official', 'ours', 'back')]
    numbers = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    order = tmp_path / 'order.txt'
    order.write_text('\n'.join(map(str, numbers)))
    convert_file(original, ours, config=CIFAR, class_order=order)
    convert_file(ours, back, config=CIFAR, class_order=order, to_official=True)
    official, ours, back = (read_checkpoint(path).weights for path in paths)
    for theirs, number in enumerate(numbers):
        assert torch.equal(ours['head.fc.weight'][number], official['linear.weight'][theirs])
    assert all(torch.equal(back[name], official[name]) for name in official)
    for text, code in (('0 1', 'no-classifier'), ('0 0', 'no-permutation'), ('0 b', 'not-numbers')):
        order.write_text(text)
        with pytest.raises(BadClassOrder, match='order') as error:
            convert_file(paths[0], tmp_path / 'other.pth', config=CIFAR, class_order=order)
        assert error.value.code == code


def test_official_names_and_missing_data_end_with_one_line(official, tiny, tmp_path, monkeypatch, no_checksums):
    options = '--cfg-options', f'data_root={tiny("cifar100_lt")}', 'test_dataloader.num_workers=0'
    with pytest.raises(
        SystemExit, match='official.pth holds no weights, .* tools/convert_official_weights.py converts'
    ):
        start(monkeypatch, tmp_path, 'test.py', CIFAR, 'official.pth', *options)
    with pytest.raises(SystemExit, match=r'^missing: data/imagenet/train; put ImageNet-1K under data/imagenet/'):
        start(monkeypatch, tmp_path, 'train.py', R18)


def test_the_options_are_those_of_mmpretrain(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, 'train.py', R18, '--help')
    assert '--no-validate' in capsys.readouterr().out
    assert 'mmpretrain' in str(mmdet_tools.stock_tool('train.py', 'mmpretrain'))


def pack(root, keys, database):
    """Moves the images below ``root`` into an LMDB, under the paths that begin with ``keys``."""
    with lmdb.open(str(database), map_size=2**24) as packed, packed.begin(write=True) as transaction:
        for split in ('train', 'val'):
            for path in sorted((root / split).glob('*/*')):
                transaction.put(f'{keys}{path.relative_to(root)}'.encode(), path.read_bytes())
            shutil.rmtree(root / split)


def test_images_are_read_from_an_lmdb(tiny, tmp_path, monkeypatch):
    """As docs/pretraining.md says: with the lists alone, and no folders."""
    root = shutil.copytree(tiny('imagenet'), tmp_path / 'data/imagenet')
    pack(root, 'data/imagenet/', root / 'images.lmdb')
    assert sorted(path.name for path in root.iterdir()) == ['images.lmdb', 'meta']
    packed = [
        f'{loader}_dataloader.dataset.pipeline.0.backend_args.{option}'
        for loader in ('train', 'val', 'test')
        for option in ('backend=lmdb', 'db_path=data/imagenet/images.lmdb')
    ]
    few = ['max_epochs=1', 'classes=a,b,c', 'train_dataloader.num_workers=1', 'val_dataloader.num_workers=0']
    # the hook that draws curves takes longer than the training
    sizes = [
        'train_dataloader.batch_size=6',
        'test_evaluator.topk=1',
        'default_hooks.activation_stats.type=SyncBuffersHook',
    ]
    start(
        monkeypatch,
        tmp_path,
        'train.py',
        R18,
        '--work-dir',
        'run',
        '--cfg-options',
        *packed,
        *few,
        *sizes,
        *SMALL.split(),
    )
    assert (tmp_path / 'run/epoch_1.pth').is_file() and 'accuracy/top1' in log_of(tmp_path / 'run')

    (root / 'meta/val.txt').write_text('c0/absent.png 0\n')
    with pytest.raises(SystemExit, match=r'image data/imagenet/val/c0/absent.png cannot be read'):
        arguments = ['run/epoch_1.pth', '--cfg-options', *packed, 'classes=a,b,c', 'test_dataloader.num_workers=0']
        start(monkeypatch, tmp_path, 'test.py', R18, *arguments, *SMALL.split(), 'test_evaluator.topk=1')


@pytest.mark.slow
def test_train_resume_and_test_as_processes(tiny, tmp_path):
    root = shutil.copytree(tiny('imagenet'), tmp_path / 'data')
    options = f'data_root={root} classes=a,b,c {SMALL} test_evaluator.topk=1 train_dataloader.batch_size=4'.split()
    tools = ROOT / 'tools'
    train = [tools / 'train.py', R18, '--work-dir', 'run', '--cfg-options', *options]
    succeed(start_program(*train, 'max_epochs=1', cwd=tmp_path))
    output = succeed(
        start_program(
            *train[: -len(options) - 1], '--resume', *train[-len(options) - 1 :], 'max_epochs=2', cwd=tmp_path
        )
    )
    assert 'epoch_1.pth' in output and 'Epoch(train) [2]' in output and 'Epoch(train) [1]' not in output
    test = [tools / 'test.py', R18, 'run/epoch_2.pth', '--cfg-options', *options]
    plain, tta = (succeed(start_program(*test[:3], *flag, *test[3:], cwd=tmp_path)) for flag in ([], ['--tta']))
    assert all('accuracy/top1' in text for text in (plain, tta))
    weights = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=True)['state_dict']
    assert {'head.fc.weight', 'backbone.act_stem.lambda_'} <= weights.keys() and np.isfinite(
        weights['head.fc.bias']
    ).all()


def test_the_list_of_the_set_up_is_complete():
    written = Path(sys.prefix) / 'classification.txt'  # where the environment has some of it by itself
    file = written if written.exists() else ROOT / 'tools/setup/classification.txt'
    names = dict(re.findall(r'^([\w-]+)==(\S+)$', file.read_text(), re.M))
    known = {*map(canonicalize_name, names), *pins('requirements.txt'), *from_torch()}
    for name, version in names.items():
        assert metadata.version(name) == version
        assert dependencies(name) <= known, name
