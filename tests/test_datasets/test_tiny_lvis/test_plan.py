"""The plan of the tiny LVIS at full size: long-tailed training, uniform validation."""

from collections import Counter

import pytest

from apa_mmdet.datasets.tiny_lvis.plan import CATEGORIES, plan_split, planned_counts
from apa_mmdet.datasets.tiny_lvis.scenes import APPEARANCES, SHAPES


def images_per_class(plans):
    return Counter(c for plan in plans for c in set(plan.objects))


def test_names_are_unique_sorted_and_made_of_every_shape_and_appearance():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 48
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert Counter(name.rsplit('_', 1)[1] for name in CATEGORIES) == dict.fromkeys(SHAPES, 6)
    assert Counter(name.rsplit('_', 1)[0] for name in CATEGORIES) == dict.fromkeys(APPEARANCES, 8)


@pytest.mark.parametrize('num_images', [800, 1000])
def test_train_plan_has_a_long_tail_over_all_classes(num_images):
    counts = images_per_class(plan_split('train', num_images, 0))
    rare = [c for c, n in counts.items() if n <= 10]
    frequent = [c for c, n in counts.items() if n > 100]
    assert len(counts) == 48
    assert len(rare) >= 12 and len(frequent) >= 12 and 48 - len(rare) - len(frequent) >= 12
    assert max(counts.values()) >= 50 * min(counts.values())


def test_no_shape_and_no_appearance_is_rare_as_a_whole():
    counts = images_per_class(plan_split('train', 800, 0))
    for part in (*SHAPES, *APPEARANCES):
        members = [counts[k] for k, name in enumerate(CATEGORIES) if part in name]
        assert min(members) <= 10 and max(members) > 100, part


def test_a_large_set_has_rare_classes():
    assert (planned_counts('train', 20000) <= 10).sum() == 12


def test_each_class_has_its_planned_count():
    planned = planned_counts('train', 800)
    assert images_per_class(plan_split('train', 800, 0)) == dict(enumerate(planned))


def test_val_plan_is_balanced_whatever_the_training_frequency():
    counts = images_per_class(plan_split('val', 200, 0))
    assert len(counts) == 48
    assert min(counts.values()) >= 8
    assert max(counts.values()) == min(counts.values())


@pytest.mark.parametrize('split, negatives', [('train', 8), ('val', 20)])
def test_an_image_has_2_to_6_objects_and_absent_negatives(split, negatives):
    plans = plan_split(split, 400, 1)
    for plan in plans:
        assert 2 <= len(plan.objects) <= 6
        assert len(set(plan.negatives)) == negatives
        assert not set(plan.negatives) & set(plan.objects)
        if plan.dropped is not None:
            assert plan.objects.count(plan.objects[plan.dropped]) >= 2
    dropped = sum(plan.dropped is not None for plan in plans)
    assert 0.02 <= dropped / len(plans) <= 0.08


@pytest.mark.parametrize('num_images', [1, 2, 7, 40])
def test_few_images_can_be_planned(num_images):
    plans = plan_split('train', num_images, 0)
    assert len(plans) == num_images
    assert all(2 <= len(plan.objects) <= 6 for plan in plans)
    assert num_images < 40 or len(images_per_class(plans)) == 48
