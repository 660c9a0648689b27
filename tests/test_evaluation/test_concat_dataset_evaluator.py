"""Several data sets, each with metrics of its own, equal a test of each by itself."""

import json

import pytest
import torch
from helpers.lvis_samples import draw, result, saved
from helpers.processes import in_two_processes
from mmengine.evaluator import BaseMetric

from apa_mmdet.evaluation import ConcatDatasetEvaluator, FastLVISMetric


class Seen(BaseMetric):
    """Counts the images that it gets, and remembers the first."""

    default_prefix = 'seen'

    def process(self, data_batch, data_samples):
        self.results += [sample['img_id'] for sample in data_samples]

    def compute_metrics(self, results):
        return dict(images=len(results), distinct=len(set(results)))


def two_sets(tmp_path):
    """Annotation files and samples of two data sets of 5 and 4 images with the same numbers."""
    sets = []
    for seed, images in ((3, 5), (4, 4)):
        content, samples = draw(seed, images=images)
        numbers = {image['id']: i for i, image in enumerate(content['images'], 1)}
        for record in content['images']:
            record['id'] = numbers[record['id']]
        for annotation in content['annotations']:
            annotation['image_id'] = numbers[annotation['image_id']]
        samples = [dict(sample, img_id=numbers[sample['img_id']]) for sample in samples]
        folder = tmp_path / f'set{seed}'
        folder.mkdir()
        sets.append((saved(content, folder), samples))
    return sets


def evaluator(first, second):
    found = ConcatDatasetEvaluator(
        [[FastLVISMetric(first, metric=['bbox', 'segm']), Seen()], FastLVISMetric(second, metric='bbox')], ['a', 'b']
    )
    found.dataset_meta = dict(classes=('x',), cumulative_sizes=[5, 9])
    return found


def expected(sets):
    (first, samples), (second, others) = sets
    wanted = {
        f'a/{key}': value for key, value in result(FastLVISMetric, first, samples, metric=['bbox', 'segm']).items()
    }
    wanted.update({'a/seen/images': 5, 'a/seen/distinct': 5})
    wanted.update({f'b/{key}': value for key, value in result(FastLVISMetric, second, others, metric='bbox').items()})
    return wanted


def test_each_data_set_has_several_metrics_of_its_own_images(tmp_path):
    (first, samples), (second, others) = sets = two_sets(tmp_path)
    ours, everything = evaluator(first, second), Seen()
    ours.metrics.append(everything)  # as tools/test.py --out
    for _ in range(2):  # the second validation begins again
        for start in range(0, 9, 2):  # a batch has images of both
            ours.process([*samples, *others][start : start + 2])
        wanted = {**expected(sets), 'seen/images': 9, 'seen/distinct': 5}
        assert ours.evaluate(9) == pytest.approx(wanted, abs=0, nan_ok=True)


def in_process(rank, folder, sets):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    (first, samples), (second, others) = sets
    ours = evaluator(first, second)
    everything = [*samples, *others]
    everything.append(everything[0])  # DefaultSampler fills the last round with the first image
    for start in range(rank, 10, 4):
        ours.process(everything[start : start + 4 : 2])
    (folder / f'{rank}.json').write_text(json.dumps(ours.evaluate(9)))


def test_two_processes_give_the_same(tmp_path):
    sets = two_sets(tmp_path)
    in_two_processes(in_process, tmp_path, sets)
    wanted = expected(sets)
    for rank in range(2):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == pytest.approx(wanted, abs=0, nan_ok=True)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has metrics of 2 data sets and the prefixes \\['a'\\]"):
        ConcatDatasetEvaluator([Seen(), Seen()], ['a'])
    ours = ConcatDatasetEvaluator([Seen(), Seen()], ['a', 'b'])
    with pytest.raises(ValueError, match='but the dataloader has no ConcatDataset'):
        ours.dataset_meta = dict(classes=('x',))
    ours.dataset_meta = [dict(classes=('x',), cumulative_sizes=[1, 3]), dict(classes=('y',), cumulative_sizes=[1, 3])]
    assert [metric.dataset_meta['classes'] for metric in ours.metrics] == [('x',), ('y',)]
    ours.process([dict(img_id=1)])
    with pytest.raises(ValueError, match='got 1 images in process 0 of 1 for 3 of the data sets'):
        ours.evaluate(3)
    ours = ConcatDatasetEvaluator([[Seen(), Seen()]], ['a'])
    ours.dataset_meta = dict(cumulative_sizes=[1])
    ours.process([dict(img_id=1)])
    with pytest.raises(ValueError, match='two metrics give a/seen/images'):
        ours.evaluate(1)
