"""Training curves from logs that MMEngine wrote, of finished, stopped and resumed runs."""

import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.tiny_runs import Stop, toy

from apa_mmdet.visualization.training_curves import draw_training_curves, loss_curves, precisions, read_log, smooth

LVIS = {'lvis/bbox_AP': 0.3, 'lvis/bbox_APr': -1.0, 'lvis/segm_AP': 0.2, 'lvis/segm_APf': 0.4}


def run(work_dir, stop=None, resume=False, name='', interval=1, **options):
    """Trains for eight steps, four an epoch; returns its folder, renamed to be the latest."""
    logger = dict(type='LoggerHook', interval=interval)
    runner = toy(work_dir, resume=resume, name=name, hooks=dict(logger=logger), **options)
    if stop:
        runner.register_hook(Stop(stop))
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    folder = Path(runner.log_dir)
    return folder.rename(
        folder.with_name(f'{len(list(work_dir.glob("*/vis_data"))):08d}')
    )  # all start in the same second


def lines_of(folder):
    return (folder / 'vis_data/scalars.json').read_text().splitlines()


def add(folder, *rows):
    with (folder / 'vis_data/scalars.json').open('a') as file:
        file.writelines(json.dumps(row) + '\n' for row in rows)


def test_the_latest_training_run_is_read(tmp_path):
    first = run(tmp_path, stop=6)
    add(first, dict(LVIS, step=1), {'lvis/bbox_AP': 0.1, 'step': 2})
    log = read_log(tmp_path)
    assert [row['step'] for row in log.steps] == [1, 2, 3, 4, 5] and log.by_epoch
    assert [(row['step'], row['lvis/bbox_AP']) for row in log.validations] == [(1, 0.3), (2, 0.1)]
    run(tmp_path, resume=True, name='second')  # from the checkpoint of step 4
    assert [row['step'] for row in read_log(tmp_path).steps] == [5, 6, 7, 8]
    run(tmp_path, name='third', interval=2)
    assert [row['step'] for row in read_log(tmp_path).steps] == [2, 4, 6, 8]


def test_logs_of_tests_and_broken_lines_are_skipped(tmp_path):
    assert read_log(tmp_path) is None
    folder = run(tmp_path, epochs=1)
    tested = tmp_path / '9/vis_data'
    tested.mkdir(parents=True)
    (tested / 'scalars.json').write_text(json.dumps(LVIS) + '\n')
    with (folder / 'vis_data/scalars.json').open('a') as file:
        file.write('[1]\n{"loss": 2.0, "step": 5')
    assert [row['step'] for row in read_log(tmp_path).steps] == [1, 2, 3, 4]
    assert read_log(tested.parent) is None


def test_validations_of_a_run_by_iterations_are_numbered_by_step(tmp_path):
    """MMEngine numbers them by epochs by default."""
    options = dict(train_cfg=dict(by_epoch=False, max_iters=3, val_interval=50), log_processor=dict(by_epoch=False))
    folder = run(tmp_path, options=options)
    add(folder, dict(LVIS, step=0), dict(loss=1.0, step=6), dict(LVIS, step=1), dict(LVIS, step=7))
    log = read_log(tmp_path)
    assert not log.by_epoch and [row['step'] for row in log.steps] == [1, 2, 3, 6]
    assert [row['step'] for row in log.validations] == [3, 6, 7]


def test_losses_are_summed_by_the_part_of_the_detector():
    row = dict(loss=10.0, loss_rpn_cls=1.0, loss_rpn_bbox=2.0, loss_mask=3.0, loss_cls=1.5, loss_bbox=2.5, lr=1.0)
    curves = loss_curves([row, row])
    assert {name: values.tolist() for name, values in curves.items()} == {
        'total': [10.0] * 2, 'RPN': [3.0] * 2, 'mask': [3.0] * 2, 'class and box': [4.0] * 2
    }  # fmt: skip
    assert list(loss_curves([dict(loss=1.0, loss_cls=1.0)])) == ['total']


@pytest.mark.parametrize('count', [1, 39, 40, 41, 80, 119, 120, 121, 123, 999, 1000])
def test_smoothing_is_the_mean_of_the_finite_values_of_a_window(count):
    rng = np.random.default_rng(count)
    values = rng.exponential(size=count)
    values[rng.random(count) < 0.1] = np.nan
    values[rng.random(count) < 0.05] = np.inf
    values[count // 3 : count // 2] = np.nan  # windows without a finite value
    values[: count // 10] = 1e30  # a loss that exploded before
    reach = count // 40
    for i, found in enumerate(smooth(values)):
        window = values[max(0, i - reach) : i + reach + 1]
        window = window[np.isfinite(window)]
        assert found == pytest.approx(window.mean() if window.size else np.nan, rel=1e-12, nan_ok=True)


def test_smoothing_of_a_long_log_needs_little_memory():
    values = np.random.default_rng(0).random(200_000)
    tracemalloc.start()
    try:
        smoothed = smooth(values)
        assert tracemalloc.get_traced_memory()[1] < 20 * values.nbytes  # not 10,000 times, a row for each value
    finally:
        tracemalloc.stop()
    assert smoothed[100_000] == pytest.approx(values[95_000:105_001].mean(), rel=1e-12)


def test_smoothing_keeps_the_ends_and_skips_non_finite_values():
    values = np.random.default_rng(0).normal(size=200)
    values[[50, 120]] = np.nan, np.inf
    expected = [np.mean([v for v in values[max(0, i - 5) : i + 6] if np.isfinite(v)]) for i in range(200)]
    assert smooth(values) == pytest.approx(expected, abs=1e-12)


def test_precisions_are_found_for_lvis_and_coco_keys():
    coco = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.7, 'coco/bbox_mAP_s': 0.1, 'data_time': 1.0, 'step': 3}
    assert precisions(coco) == {'box': {'mAP': 0.5, 'mAP_50': 0.7}}
    assert precisions({'bbox_AP': 0.5}) == {'box': {'AP': 0.5}}
    assert precisions({'loss': 1.0, 'pascal_voc/mAP': 0.1}) == {}


@pytest.mark.parametrize('validations, rows', [(0, 1), (1, 2), (3, 2)])
def test_the_figure_has_a_row_for_losses_and_one_for_validations(tmp_path, validations, rows):
    folder = run(tmp_path, epochs=1)
    add(folder, dict(loss=float('nan'), loss_rpn=0.0, loss_mask=0.1, epoch=2, step=5))
    add(folder, *(dict(LVIS, step=i + 1) for i in range(validations)))
    picture = draw_training_curves(tmp_path, tmp_path / 'curves.png')
    shape = cv2.imread(str(picture)).shape
    assert shape == (520 if rows == 1 else 975, 1430, 3)


def test_without_a_log_no_figure_is_written(tmp_path):
    assert draw_training_curves(tmp_path, tmp_path / 'curves.png') is None and not list(tmp_path.iterdir())
