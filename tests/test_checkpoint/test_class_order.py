"""The order of the classes: reading it, and moving the rows of a classifier there and back."""

import pytest
import torch

from apa_mmdet.checkpoint.class_order import BadClassOrder, read_class_order, reorder_classifier


def test_rows_of_weight_and_bias_move_and_come_back(tmp_path):
    (tmp_path / 'order.txt').write_text('2 0\n1\n')
    order = read_class_order(tmp_path / 'order.txt')
    weights = {
        'head.fc.weight': torch.arange(6.0).view(3, 2),
        'head.fc.bias': torch.arange(3.0),
        'head.fc.sigma': torch.ones(1),
        'backbone.conv1.weight': torch.arange(3.0),
    }
    moved = reorder_classifier(weights, order)
    assert moved['head.fc.bias'].tolist() == [1, 2, 0] and moved['head.fc.weight'][2].tolist() == [0, 1]
    assert all(moved[name] is weights[name] for name in ('head.fc.sigma', 'backbone.conv1.weight'))
    back = reorder_classifier(moved, order, inverse=True)
    assert all(torch.equal(back[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ('text', 'code'),
    [('0 -1', 'not-numbers'), ('0 ٣', 'not-numbers'), ('1 2', 'no-permutation'), ('', 'no-classifier')],
)
def test_another_content_is_refused(text, code, tmp_path):
    (tmp_path / 'order.txt').write_text(text)
    with pytest.raises(BadClassOrder, check=lambda error: error.code == code):
        reorder_classifier({'head.fc.weight': torch.ones(2, 1)}, read_class_order(tmp_path / 'order.txt'))
