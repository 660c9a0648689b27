"""Errors with codes keep them and their message through pickle and the worker processes of a data loader."""

import importlib
import pickle
import threading

import pytest
from helpers.paths import ROOT
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError
from apa_mmdet.models.surgery import SwapError
from apa_mmdet.utils.errors import UNKNOWN, CodedError
from apa_mmdet.utils.findings import ValidationError

MESSAGE = 'a.json: id 7 is used twice  [7]\nb.json: it is empty'


def coded_errors():
    """Every class of coded errors in the package."""
    for path in sorted((ROOT / 'apa_mmdet').rglob('*.py')):
        if '(CodedError)' in path.read_text():
            importlib.import_module('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    found = [CodedError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in dict.fromkeys(found) if cls.__module__.startswith('apa_mmdet.')]


class Raising:
    """A data set whose items raise one error each."""

    def __init__(self, classes):
        self.classes = classes

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, index):
        try:
            raise KeyError('the cause')
        except KeyError as cause:
            raise self.classes[index]('some-code', MESSAGE) from cause


def test_every_coded_error_arrives_from_a_worker_process_and_from_pickle():
    classes = coded_errors()
    assert {ValidationError, SwapError, EvaluationError} < set(classes)
    items = iter(DataLoader(Raising(classes), num_workers=1))
    for cls in classes:
        with pytest.raises(cls) as arrived:
            next(items)
        copy = pickle.loads(pickle.dumps(cls('some-code', MESSAGE)))
        for error in (arrived.value, copy):
            assert (type(error), error.code, str(error)) == (cls, 'some-code', MESSAGE)


def test_the_ids_and_names_of_an_error_are_pickled_with_it():
    error = pickle.loads(pickle.dumps(ValidationError.of('duplicate-key', [3, 7], path='a', key='b', record='c')))
    assert (error.code, error.ids) == ('duplicate-key', (3, 7)) and str(error).startswith('a gives "b" more than once')
    error = pickle.loads(pickle.dumps(SwapError.of('missing-type', ['ReLU'], module='A', listed='B')))
    assert (error.code, error.names) == ('missing-type', ['ReLU']) and 'no ReLU in A' in str(error)


def test_an_error_that_a_thread_passes_on_as_text_keeps_its_message():
    def run():
        try:
            raise CodedError('some-code', 'a.json: it is empty')
        except CodedError:
            caught.append(ExceptionWrapper(where='in a thread'))

    caught = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    with pytest.raises(CodedError) as error:
        caught[0].reraise()
    assert (error.value.code, str(error.value)) == (UNKNOWN, 'a.json: it is empty')


def test_a_code_alone_is_no_error():
    with pytest.raises(TypeError, match='ValidationError needs a code and a message'):
        ValidationError('duplicate-id')
