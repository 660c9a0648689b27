import math

import numpy as np
import pytest
import torch

from apa_mmdet.evaluation import ShotAccuracy


def evaluated(metric, scores, labels):
    samples = [dict(pred_score=s, gt_label=torch.tensor([label])) for s, label in zip(scores, labels)]
    metric.process({}, samples[:2])
    metric.process({}, samples[2:])
    return metric.evaluate(len(samples))


def test_top_k_and_means_over_classes_of_each_group():
    counts = [500, 101, 100, 20, 19, 0]
    labels = [0, 0, 0, 0, 1, 2, 3, 3, 4, 5, 5]
    predicted = [0, 0, 0, 1, 0, 2, 3, 0, 0, 5, 0]
    scores = torch.full((len(labels), 6), 0.1)
    scores[range(len(labels)), predicted] = 0.5
    scores[3, 0] = 0.4
    found = evaluated(ShotAccuracy(counts, topk=(1, 2)), scores, labels)
    assert list(found) == [f'accuracy/{key}' for key in ShotAccuracy.keys((1, 2), counts)]
    hits = np.equal(labels, predicted)
    assert found['accuracy/top1'] == pytest.approx(100 * hits.mean())
    assert found['accuracy/top1_many'] == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert found['accuracy/top1_medium'] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert found['accuracy/top1_few'] == pytest.approx(100 * (0 + 1 / 2) / 2)
    assert found['accuracy/top2'] >= found['accuracy/top1'] + 100 / len(labels)


def test_groups_without_an_image_are_nan_and_without_counts_there_are_none():
    scores = torch.eye(3)
    found = evaluated(ShotAccuracy([200, 5, 5], topk=1), scores[:2].repeat(2, 1), [0, 0, 0, 0])
    assert found['accuracy/top1_many'] == 50 and all(
        math.isnan(found[f'accuracy/top1_{name}']) for name in ('medium', 'few')
    )
    assert evaluated(ShotAccuracy(topk=1), scores, [0, 1, 2]) == {'accuracy/top1': 100.0}


def test_counts_of_a_training_list(tmp_path):
    (tmp_path / 'train.txt').write_text(''.join(f'{i}.jpg 0\n' for i in range(101)) + 'a b.jpg 2\n')
    found = evaluated(ShotAccuracy(str(tmp_path / 'train.txt'), topk=1), torch.eye(3), [0, 1, 2])
    assert (found['accuracy/top1_many'], found['accuracy/top1_few']) == (100, 100)


def test_wrong_k_is_refused():
    with pytest.raises(ValueError, match='topk must be numbers of 1 or more, got 0'):
        ShotAccuracy(topk=0)
    with pytest.raises(ValueError, match=r'topk=\(1, 5\), but there are 3 classes; lower topk'):
        evaluated(ShotAccuracy(), torch.eye(3), [0, 1, 2])
