"""The plans of the drawn data sets at full size: long-tailed training, uniform validation."""

from collections import Counter

import numpy as np
import pytest

from apa_mmdet.datasets.tiny_lvis.appearances import APPEARANCES, COLORS, MARKS, SURFACES
from apa_mmdet.datasets.tiny_lvis.plan import plan_split, planned_counts
from apa_mmdet.datasets.tiny_lvis.shapes import SHAPES
from apa_mmdet.datasets.tiny_lvis.vocabularies import CATEGORIES, SMALL, SOLID, TINY


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


@pytest.mark.parametrize('vocabulary, rare', [(TINY, 12), (SMALL, 120)], ids=['tiny', 'small'])
def test_a_large_set_has_rare_classes(vocabulary, rare):
    assert (planned_counts('train', 20000, vocabulary) <= 10).sum() == rare


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
    check_images(plan_split(split, 400, 1), (2, 6), negatives)


def check_images(plans, objects, negatives):
    for plan in plans:
        assert objects[0] <= len(plan.objects) <= objects[1]
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


# --------------------------------------------------------------- the small LVIS: many classes that look alike


@pytest.fixture(scope='module')
def small():
    return {split: plan_split(split, number, 0, SMALL) for split, number in (('train', 4000), ('val', 1000))}


def parts(k):
    return tuple(SMALL.names[k].split('_'))


def test_small_names_are_unique_and_made_of_every_part():
    assert len(SMALL.names) == len(set(SMALL.names)) == 360
    for position, factor in enumerate((MARKS, SURFACES, COLORS, SOLID)):
        share = 360 // len(factor)
        assert Counter(parts(k)[position] for k in range(360)) == dict.fromkeys(factor, share)


def test_a_third_of_the_small_classes_is_rare_and_the_first_are_in_thousands_of_images(small):
    counts = images_per_class(small['train'])
    assert counts == dict(enumerate(planned_counts('train', 4000, SMALL)))
    found = np.array(sorted(counts.values()))
    assert ((found <= 10).sum(), (found > 100).sum(), len(found)) == (120, 96, 360)
    assert (found[0], found[-1]) == (1, 1200)


def test_every_rare_class_has_a_frequent_one_that_differs_in_its_mark_alone(small):
    counts = images_per_class(small['train'])
    frequent = {parts(k)[1:] for k, n in counts.items() if n > 100}
    assert all(parts(k)[1:] in frequent for k, n in counts.items() if n <= 10)
    families = {parts(k)[1:]: SMALL.families[k] for k in range(360)}
    assert len(set(families.values())) == 72
    assert [families[parts(k)[1:]] for k in range(360)] == SMALL.families.tolist()


def test_every_part_of_a_small_name_has_rare_and_frequent_classes(small):
    counts = images_per_class(small['train'])
    for position, factor in enumerate((MARKS, SURFACES, COLORS, SOLID)):
        for part in factor:
            members = np.array([counts[k] for k in range(360) if parts(k)[position] == part])
            assert (members <= 10).mean() > 0.2 and (members > 100).mean() > 0.15, part


def test_small_validation_is_uniform_with_twelve_objects_of_each_class(small):
    counts = images_per_class(small['val'])
    assert len(counts) == 360 and len(set(counts.values())) == 1
    annotated = Counter(k for p in small['val'] for i, k in enumerate(p.objects) if i != p.dropped)
    assert min(annotated.values()) >= 12


@pytest.mark.parametrize('split, negatives', [('train', 40), ('val', 120)])
def test_a_small_image_has_4_to_8_objects_and_its_look_alikes_are_verified_absent(small, split, negatives):
    check_images(small[split], (4, 8), negatives)
    for plan in small[split]:
        known = {*plan.negatives, *plan.objects}
        assert all(len({k % 72 + 72 * mark for mark in range(5)} - known) == 0 for k in plan.objects)


@pytest.mark.parametrize('num_images', [1, 7, 100])
def test_few_small_images_can_be_planned(num_images):
    plans = plan_split('train', num_images, 0, SMALL)
    assert len(plans) == num_images and all(4 <= len(plan.objects) <= 8 for plan in plans)
    assert num_images < 100 or len(images_per_class(plans)) == 360
