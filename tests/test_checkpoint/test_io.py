"""Reading checkpoints without trusting them: what is refused, under which code and in which sentence."""

import functools
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from apa_mmdet.checkpoint.io import CODES, BadCheckpoint, read_checkpoint, write_checkpoint

WEIGHTS = dict(a=torch.arange(3000.0), b=torch.ones(2, dtype=torch.float16))


class Call:
    """A pickle that calls ``function`` when loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(path):
    """Code and message of the error, which is one line that begins with the path; the path is removed."""
    with pytest.raises(BadCheckpoint) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert '\n' not in message and message.startswith(f'{path} ') and caught.value.code in CODES
    return caught.value.code, message[len(str(path)) + 1 :]


@pytest.fixture(params=[True, False], ids=['zip', 'legacy'])
def save(request, tmp_path):
    def save(content):
        torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=request.param)
        return tmp_path / 'file.pth'

    return save


@pytest.mark.parametrize('nest', ['model', 'state_dict', None])
def test_weights_are_found_and_the_rest_is_named(save, nest):
    path = save(
        {nest: WEIGHTS, 'epoch': 3, 'meta': dict(cfg='', config='', time='now', a=np.float64(1), b=np.eye(2))}
        if nest
        else WEIGHTS
    )
    weights, under, meta, rest = read_checkpoint(path)
    assert under == nest
    assert weights.keys() == WEIGHTS.keys() and all(torch.equal(weights[k], WEIGHTS[k]) for k in WEIGHTS)
    assert weights['b'].dtype == torch.float16
    assert (meta, rest) == (
        (dict(time='now', a=1.0), ['epoch', 'meta.cfg', 'meta.config', 'meta.b']) if nest else ({}, [])
    )


@pytest.mark.parametrize(
    'function, name', [(os.system, r'(posix|nt)\.system'), (eval, 'eval'), (functools.partial, r'functools\.partial')]
)
def test_code_is_refused_by_name_and_not_run(save, tmp_path, function, name):
    witness = tmp_path / 'ran'
    argument = {os.system: f'touch {witness}', eval: f'open({str(witness)!r}, "w")'}.get(function, print)
    code, line = refused(save(dict(model=WEIGHTS, extra=Call(function, argument))))
    own = '; if it is a class of your own that only holds data, allow it with torch.serialization.add_safe_globals'
    assert code == 'runs-code'
    assert re.fullmatch(
        rf'is refused, because loading it would run code \({name}\); get a file that only holds weights',
        line.replace(own, ''),
    )
    assert (own in line) == (function is functools.partial and hasattr(torch.serialization, 'add_safe_globals'))
    assert not witness.exists()


def test_whole_modules_scripts_and_attributes_are_refused(save, tmp_path):
    code, line = refused(save(torch.nn.Linear(1, 1)))
    assert code == 'runs-code' and 'would run code (torch.nn.modules.linear.Linear)' in line
    code, line = refused(save(dict(model=Call(getattr, np.ndarray, 'tofile'))))
    assert code == 'runs-code' and "would run code (a checkpoint may not look up 'tofile' of" in line
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / 'script.pth'))
    assert refused(tmp_path / 'script.pth') == (
        'torchscript',
        'is a TorchScript program, not a checkpoint; get a file that only holds weights',
    )


@pytest.mark.parametrize('keep', [100, 0.5, 0.999])
def test_a_truncated_file_is_damaged(save, keep):
    path = save(dict(model=WEIGHTS))
    content = path.read_bytes()
    size = int(keep * len(content)) if keep < 1 else keep
    path.write_bytes(content[:size])
    code, line = refused(path)
    assert code == 'damaged' and len(line) < 350
    assert re.fullmatch(
        rf'is cut short, damaged or not a checkpoint \({size:,} bytes\); download it again \(\w+(: .+)?\)', line
    )


def damaged(path, start, end):
    content = bytearray(path.read_bytes())
    content[start:end] = bytes(byte ^ 0xFF for byte in content[start:end])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('start', [40, 100, 300])
def test_a_damaged_file_is_not_taken_for_an_attack(save, start):
    code, line = refused(damaged(save(dict(model=WEIGHTS)), start, start + 40))
    assert code in ('damaged', 'unsupported-protocol', 'not-a-checkpoint', 'no-weights')
    assert '()' not in line


@pytest.mark.parametrize('end', [-200, -60])
def test_a_zip_with_a_damaged_directory_is_damaged(tmp_path, end):
    torch.save(dict(model=WEIGHTS), tmp_path / 'file.pth')
    assert refused(damaged(tmp_path / 'file.pth', end - 20, end))[0] == 'damaged'


def test_another_pickle_protocol_is_named(save):
    path = save(dict(model=WEIGHTS))
    torch.save(dict(model=WEIGHTS), path, pickle_protocol=4)
    assert refused(path) == (
        'unsupported-protocol',
        'is damaged, or of a pickle protocol that torch does not load as mere data; download it again, or save it '
        'again with torch.save and its default protocol',
    )


def test_names_of_a_parallel_model_lose_their_prefix(save):
    path = save({f'module.{key}': tensor for key, tensor in WEIGHTS.items()})
    assert list(read_checkpoint(path).weights) == list(WEIGHTS)


def zip_of_something_else(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights.pth', '')
        archive.writestr('README', '')


def test_the_text_that_names_the_last_checkpoint_is_not_taken_for_one(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/work_dirs/a/epoch_2.pth')
    code, line = refused(tmp_path / 'last_checkpoint')
    assert code == 'not-a-checkpoint' and line.endswith('give the file that it names')


@pytest.mark.parametrize(
    'content, code, line',
    [
        (b'', 'empty', 'is empty; download it again'),
        (b'\n<!DOCTYPE html><html>', 'web-page', 'is a web page, not a checkpoint; download the file itself'),
        (
            b'version https://',
            'not-a-checkpoint',
            "is not a checkpoint of PyTorch, it begins with b'version https://'; if it is an archive, unpack it first",
        ),
        (
            pickle.dumps({}, protocol=4),
            'not-a-checkpoint',
            r"is not a checkpoint of PyTorch, it begins with b'\x80\x04}\x94.'; if it is an archive, unpack it first",
        ),
        (
            zip_of_something_else,
            'zip',
            'is a zip archive, not a checkpoint; unpack it first, it holds weights.pth, README',
        ),
    ],
)
def test_files_of_another_format_are_named(tmp_path, content, code, line):
    path = tmp_path / 'file.pth'
    content(path) if callable(content) else path.write_bytes(content)
    assert refused(path) == (code, line)


@pytest.mark.parametrize('content', [3, dict(epoch=3), dict(model={}), {3: torch.zeros(1)}, [torch.zeros(1)]])
def test_checkpoints_without_weights(save, content):
    code, line = refused(save(content))
    assert code == 'no-weights'
    assert line.startswith('holds no weights, neither at its top level nor under `model` or `state_dict`')


@pytest.mark.skipif(not hasattr(torch, '_nested_view_from_buffer'), reason='a torch without nested tensors in files')
def test_a_nested_tensor_is_not_a_weight(tmp_path):
    """It has no shape that could be compared."""
    nested = torch._nested_view_from_buffer(torch.ones(2), *torch.tensor([[[2]], [[1]]]), torch.tensor([0]))
    torch.save(dict(state_dict=dict(a=nested)), tmp_path / 'file.pth')
    code, line = refused(tmp_path / 'file.pth')
    assert code == 'no-weights' and line.endswith("; 'a' is not the name of a tensor")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / 'folder/out.pth'
    write_checkpoint(dict(state_dict=WEIGHTS), path)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_checkpoint(dict(state_dict=lambda: 0), path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
