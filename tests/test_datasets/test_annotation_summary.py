import math

import pytest
from helpers.own_data import own_content
from mmengine.dataset import BaseDataset, ClassBalancedDataset

from apa_mmdet.datasets.annotation_summary import summarize_annotations
from apa_mmdet.datasets.lvis_form import as_lvis
from apa_mmdet.utils.findings import Findings


def summary_of(content):
    findings = Findings('train')
    return summarize_annotations(content, findings), [finding.code for finding in findings]


def test_the_numbers_are_those_of_the_annotations():
    content = own_content(images=12)
    content['images'].append(dict(content['images'][0], id=99))
    del content['annotations'][0]['segmentation']
    content['annotations'][1]['iscrowd'] = 1  # image 2, class 0
    summary, codes = summary_of(content)
    assert codes == [] and summary.names == ['date', 'fig', 'hazelnut'] and summary.dataset == 'CocoDataset'
    assert summary.instances.tolist() == summary.class_images.tolist() == [11, 6, 4]
    assert (summary.images, summary.annotated, summary.most_objects) == (13, 12, 3)
    assert summary.masked == pytest.approx(20 / 21) and set(summary.object_sides) == {16 / 48}
    assert summary.paths[0] == '1.png'


def test_epochs_are_as_long_as_with_the_repeat_factors_of_mmengine():
    class Listed(BaseDataset):
        def load_data_list(self):
            return [dict(classes=[a['category_id'] for a in content['annotations'] if a['image_id'] == i]) for i in ids]

        def get_cat_ids(self, index):
            return self.get_data_info(index)['classes']

    content = own_content(images=30)
    ids = [image['id'] for image in content['images']]
    summary, _ = summary_of(content)
    for threshold in (0.0, 0.5, 2.0, 5.0):
        repeated = ClassBalancedDataset(Listed(serialize_data=False), oversample_thr=threshold)
        assert summary.repeats(threshold) == len(repeated), threshold
    assert summary.repeats(5.0) == sum(
        math.ceil(math.sqrt(5 / share)) for share in [1 / 3 if i % 3 == 0 else 0.5 if i % 2 == 0 else 1 for i in ids]
    )


def test_the_lvis_form_is_known_by_the_absent_categories():
    content = as_lvis(own_content(images=6), 'a.json')
    summary, _ = summary_of(content)
    assert summary.dataset == 'LVISV1Dataset' and summary.paths[0] == '1.png'
    for image in content['images']:
        del image['coco_url']
        image['file_name'] = f'COCO_val2014_{image["id"]:012d}.jpg'
    summary, _ = summary_of(content)
    assert summary.dataset == 'LVISV05Dataset' and summary.paths[0] == '000000000001.jpg'
