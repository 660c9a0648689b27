import re

import pytest
from helpers.paths import ROOT

from apa_mmdet.apis.new_config import rules

PAGE = (ROOT / 'docs/dataset_prepare.md').read_text()


@pytest.mark.parametrize(
    ('classes', 'rare', 'images', 'base', 'calibrated'),
    [
        (80, 0, 117_266, 'coco/', False),
        (48, 16, 800, 'lvis/', True),  # tiny LVIS
        (360, 120, 4000, 'lvis/', True),  # small LVIS
        (1203, 40, 99_388, 'coco/', False),
        (1203, 337, 99_388, 'lvis/', False),
        (13204, 1800, 183_354, 'v3det/', False),
        (13204, 0, 183_354, 'coco/', False),
    ],
)
def test_the_loss_follows_the_tail_and_the_images(classes, rare, images, base, calibrated):
    rule = next(rule for rule in rules.LOSSES if rule.fits(rules.Tail(classes, rare, images)))
    assert rule.bases['gpu boxes'].startswith(f'apa_mmdet::{base}') and rule.calibrated == calibrated


def test_the_published_data_sets_get_the_schedules_of_their_recipes():
    assert rules.epochs_of(117_266, 117_266, 'gpu', False, 'backbone') == 12  # COCO's 1x
    assert rules.epochs_of(99_388, 130_000, 'gpu', True, 'backbone') == 24  # LVIS's 2x
    assert rules.epochs_of(800, 1007, 'cpu', True, 'random') == 5  # tiny LVIS
    assert rules.epochs_of(300, 300, 'gpu', False, 'random') == 2 * rules.epochs_of(300, 300, 'gpu', False, 'backbone')


def test_the_batch_fits_the_memory_the_recipes_and_the_number_of_images():
    def batch(images=10**5, gpus=1, memory=80, pixels=rules.LARGE_PIXELS, classes=1203, start='backbone'):
        return rules.images_per_gpu(images, gpus, memory, pixels, classes, start)

    assert batch(memory=1000) == 16 and batch(memory=1000, gpus=8) == 2 and batch(memory=1000, gpus=32) == 1
    assert 1 == batch(memory=4) < batch(memory=16) < batch(memory=24) < batch(memory=40)
    assert batch(memory=24, start='random') < batch(memory=24) < batch(memory=24, classes=3)
    assert batch(images=30, memory=1000) == 5 and batch(images=3) == 1


def test_the_pages_show_the_tables():
    epochs = re.findall(r'^\| ([\d,]+) (?:or more|to [\d,]+) \| (\d+)', PAGE, re.M)
    assert [(int(least.replace(',', '')), int(number)) for least, number in epochs] == list(rules.EPOCHS[:-1])
    assert f'| fewer | {rules.EPOCHS[-1][1]} |' in PAGE
    choosing = (ROOT / 'docs/choosing.md').read_text()
    for rule in rules.LOSSES:
        calibration = '[FRACAL](calibration.md)' if rule.calibrated else 'none'
        assert f'| {rule.loss} | {calibration} |' in choosing, rule.loss
    assert f'| {rules.MANY_IMAGES:,} or more | fewer than {rules.MANY_CLASSES:,} |' in choosing
