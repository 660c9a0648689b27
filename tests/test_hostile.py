"""Weight files with one hostile thing in them: each is found and named; ``test_fuzz.py`` draws more of them."""

import copy
import re

import pytest
import torch

from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data, read_checkpoint
from apa_mmdet.checkpoint.official_names import translate_names
from apa_mmdet.models.backbones import SEResNet


@pytest.fixture(scope='module')
def published():
    weights = SEResNet(18).state_dict()
    names = translate_names(weights, to_official=True)
    return {names[name]: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    'harm, line',
    [
        (lambda tensor: tensor / 0, r'1 not finite, first layer1.0.conv1.weight; '),
        (lambda tensor: tensor.bool(), '1 of another type, first layer1.0.conv1.weight: integers; '),
        (
            lambda tensor: tensor.to(torch.complex64),
            '1 of another type, first layer1.0.conv1.weight: complex numbers; ',
        ),
        (lambda tensor: tensor.to_sparse(), '1 of another type, first layer1.0.conv1.weight: not a plain tensor; '),
        (lambda tensor: tensor.to('meta'), '1 of another type, first layer1.0.conv1.weight: not a plain tensor; '),
        (
            lambda tensor: torch.zeros(1).expand(10**6, 10**6),
            r'1 of another shape, first layer1.0.conv1.weight: \(1000000, 1000000\), not',
        ),
    ],
)
def test_weights_that_could_not_be_used_are_not_converted(published, tmp_path, harm, line):
    weights = copy.copy(published)
    weights['layer1.0.conv1.weight'] = harm(weights['layer1.0.conv1.weight'])
    torch.save(dict(model=weights), tmp_path / 'in.pth')
    with pytest.raises(ValueError, match=rf'^{tmp_path}/in.pth does not fit .*{line}'):
        convert_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('name', ['a\nb', '\ud800', 'a\x1b[2Jb'])
def test_names_that_would_upset_a_terminal_are_none(tmp_path, name):
    torch.save({name: torch.ones(1)}, tmp_path / 'in.pth')
    with pytest.raises(BadCheckpoint, match=re.escape(f'{name!r} is not the name of a tensor')):
        read_checkpoint(tmp_path / 'in.pth')


class Larger:
    """A tensor that claims more numbers than the file has."""

    def __init__(self, tensor, size):
        self.tensor, self.size = tensor, size

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (self.tensor.storage(), 0, self.size, (1,), False, {})


@pytest.mark.parametrize('size', [(4,), (2**40,), (2**62,), (-1,)])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_tensor_that_claims_more_than_there_is(tmp_path, size, zipped):
    torch.save(dict(a=Larger(torch.ones(3), size)), tmp_path / 'in.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        BadCheckpoint, match='is cut short, damaged or not a checkpoint|needs more memory than there is, or is damaged'
    ):
        read_checkpoint(tmp_path / 'in.pth')


class Sparse:
    """A sparse tensor with an index outside its size: reading it would read foreign memory."""

    def __reduce__(self):
        indices = torch.tensor([[0], [10**9]])
        return torch._utils._rebuild_sparse_tensor, (
            torch.sparse_coo,
            (indices, torch.ones(1), torch.Size([1, 3]), True),
        )


def test_a_sparse_tensor_with_indices_outside_its_size(tmp_path):
    torch.save(dict(a=Sparse()), tmp_path / 'in.pth')
    with pytest.raises(BadCheckpoint, match=r'damaged or not a checkpoint .* size is 3 but found index 1000000000\)$'):
        read_checkpoint(tmp_path / 'in.pth')
    assert not torch.sparse.check_sparse_tensor_invariants.is_enabled()


def repeated(depth, copies):
    value = 1
    for _ in range(depth):
        value = [value] * copies
    return value


def test_plain_data_that_cannot_be_written_again_are_left_out(published, tmp_path):
    itself = []
    itself.append(itself)
    meta = dict(
        time='now',
        shared=repeated(40, 2),
        itself=itself,
        deep=repeated(300, 1),
        config='program',
        flat=[1, (2.5, None)],
    )
    torch.save({'state_dict': published, 'meta': meta, 'x\ud800': 1, 'x\n\x1b[31mall is well': 2}, tmp_path / 'in.pth')
    report = convert_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
    dropped = report.split('dropped')[1].split('missing')[0]
    report.encode()
    assert "'x\\ud800'" in dropped and "'x\\n\\x1b[31mall is well'" in dropped and '\x1b' not in report
    assert all(f'meta.{key}\n' in dropped for key in ('itself', 'deep', 'config'))
    kept = load_as_data(tmp_path / 'out.pth')['meta']
    shared = kept.pop('shared')  # not to be compared: 2^40 numbers
    assert shared[0] is shared[1] and kept == dict(time='now', flat=[1, (2.5, None)])


def test_a_name_with_a_number_of_thousands_of_digits(published, tmp_path):
    name = f'layer1.{"9" * 5000}.x'
    torch.save(dict(model={**published, name: torch.ones(1)}), tmp_path / 'in.pth')
    with pytest.raises(ValueError, match=f'in.pth does not fit .* 1 unexpected, first {name}; '):
        convert_file(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'))
