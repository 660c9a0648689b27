import json
import runpy
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_runs import tinier
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope

from apa_mmdet.apis import report
from apa_mmdet.utils.config import build_detector
from apa_mmdet.utils.errors import CodedError


def test_the_metrics_of_the_last_test_are_read(tmp_path):
    for time, value in (('20260101_000000', 0.1), ('20260102_000000', 0.2)):
        (tmp_path / time / 'vis_data').mkdir(parents=True)
        (tmp_path / time / f'{time}.json').write_text(json.dumps({'lvis/bbox_AP': value}))
        (tmp_path / time / 'vis_data' / 'scalars.json').write_text('{"loss": 1}\n{"loss": 2}')
    assert json.loads(report.last_test(tmp_path).read_text()) == {'lvis/bbox_AP': 0.2}


def test_coco_metrics_are_formatted_as_a_table():
    table = report.metric_table(
        {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75, 'coco/segm_mAP': 0.25, 'coco/segm_mAP_50': 0.5}
    )
    assert [cell.strip() for cell in table.splitlines()[-2].strip('|').split('|')] == ['mask', '0.250', '0.500']


def test_a_folder_without_a_test_result_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match='no test result; run tools/train.py, then tools/test.py'):
        report.report(tmp_path)


def test_the_tool_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['report.py', str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/report.py'), run_name='__main__')
    assert ended.value.code == (
        f'report: {tmp_path}: no test result; run tools/train.py, then tools/test.py, with this work dir'
    )


def test_a_test_without_a_checkpoint_is_rejected(tmp_path):
    (tmp_path / '1/vis_data').mkdir(parents=True)
    (tmp_path / '1/1.json').write_text('{"lvis/bbox_AP": 0.1}')
    (tmp_path / '1/vis_data/config.py').write_text('load_from = None')
    with pytest.raises(CodedError, match='1: this test had no checkpoint; run tools/test.py again with one') as error:
        report.report(tmp_path)
    assert error.value.code == 'no-checkpoint'


def test_damaged_files_of_a_test_are_named(tmp_path):
    (tmp_path / '1').mkdir()
    (tmp_path / '1/1.json').write_text('{"lvis/bbox_AP": 0.1')
    with pytest.raises(CodedError, match=r'1/1\.json cannot be read: JSONDecodeError: ') as error:
        report.report(tmp_path)
    assert error.value.code == 'unreadable-metrics'


def test_predictions_are_calibrated_by_the_names_of_the_classes(tiny_data, tmp_path):
    """The statistics may be of more classes than the model has."""
    cfg = tinier(tiny_data(train=4, val=2, size=(96, 64)), tmp_path)
    torch.save(build_detector(cfg, 'the config').state_dict(), tmp_path / 'weights.pth')
    with DefaultScope.overwrite_default_scope('mmdet'):
        classes = DATASETS.build(cfg.test_dataloader.dataset).metainfo['classes']
    names = [*classes[::-1], 'kiwi', 'plum']
    stats = dict(image_count=[*range(1, 1 + len(names))], names=names)
    cfg.model.update(type='CalibrateScores', module=dict(type='MaskRCNN'), calibration=dict(type='IIF', stats=stats))
    cfg.test_dataloader = without_scopes(cfg.test_dataloader)  # as of a config of one's own
    with DefaultScope.overwrite_default_scope(None):
        report.draw_predictions(cfg, str(tmp_path / 'weights.pth'), tmp_path / 'predictions.png', 1, 0.5)
    assert (tmp_path / 'predictions.png').read_bytes().startswith(b'\x89PNG')


def without_scopes(node):
    if isinstance(node, dict):
        return {key: without_scopes(value) for key, value in node.items() if key != '_scope_'}
    return [without_scopes(value) for value in node] if isinstance(node, list) else node
