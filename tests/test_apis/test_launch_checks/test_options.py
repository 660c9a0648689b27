import pytest
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.options import check_options
from apa_mmdet.apis.launch_checks.validate_launch import check_launch

BASE = """
max_iter = 100
base_lr = 0.02
classes = ('a', 'b')
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64))]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iter)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=base_lr))
train_dataloader = dict(batch_size=2, dataset=dict(data_root='data/x/', metainfo=dict(classes=classes), pipeline=pipeline))
model = dict(test_cfg=dict(score_thr=0.05), head=dict(num_classes=2))
flag = True
"""


def found(tmp_path, text='', **options):
    """Codes and ids of the findings about a leaf of the base with these options."""
    (tmp_path / 'base.py').write_text(BASE)
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f"_base_ = './base.py'\n{text}")
    findings = check_launch(Launch('train.py', Config.fromfile(leaf), options), [check_options])
    return [(finding.code, *finding.ids) for finding in findings], ' '.join(map(str, findings))


OPTIONS = {  # key: value, code, words
    'max_iter': (
        5,
        'spent-variable',
        'max_iter=5 comes after the config has read this variable; set train_cfg.max_iters',
    ),
    'base_lr': (0.1, 'spent-variable', 'set optim_wrapper.optimizer.lr'),
    'pipeline.1.scale': ((8, 8), 'spent-variable', 'set train_dataloader.dataset.pipeline.1.scale'),
    'flag': (False, 'unread-option', 'nothing that is known reads flag'),
    'mine': (1, 'unread-option', 'nothing that is known reads mine'),
    'max_epoch': (1, 'misspelled-setting', 'perhaps max_epochs is meant'),
    'optim_wraper.lr': (1, 'misspelled-setting', 'perhaps optim_wrapper.lr is meant'),
    'model.test_cfg.score_thrr': (0.5, 'new-setting', 'perhaps score_thr is meant'),
}
EFFECTIVE = {
    'max_iter': 100,
    'optim_wrapper.optimizer.lr': 0.1,
    'model.test_cfg.nms': 1,
    'classes': ['c'],
    'work_dir': 'a',
}


def test_options_that_change_nothing_are_reported_with_what_to_set(tmp_path):
    codes, text = found(tmp_path, **{key: value for key, (value, *_) in OPTIONS.items()})
    assert codes == [(code, key) for key, (_, code, _) in OPTIONS.items()]
    assert [words for _, _, words in OPTIONS.values() if words not in text] == []


def test_options_that_take_effect_are_not_reported(tmp_path):
    assert found(tmp_path, **EFFECTIVE)[0] == []


def test_the_line_names_all_that_depends_on_the_classes(tmp_path):
    _, line = found(tmp_path, "classes = ('c', 'd')")
    assert 'set train_dataloader.dataset.metainfo, model.head.num_classes, or --cfg-options classes=…' in line


def test_variables_of_a_leaf_that_nothing_reads(tmp_path):
    text = "classes = ('c', 'd')\npipeline = [dict(type='Other')]\noptim_wraper = dict(type='AmpOptimWrapper')\n"
    assert found(tmp_path, text)[0] == [
        ('spent-variable', 'classes'),
        ('unread-variable', 'pipeline'),
        ('misspelled-setting', 'optim_wraper'),
    ]


@pytest.mark.parametrize(
    'text',
    [
        "classes = ('a', 'b')\nmax_iter = 7\nsomething = 1\nload_from = 'w.pth'",  # the same; perhaps chance; not the base's
        "classes = ('c', 'd')\ntrain_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))",
    ],
)
def test_variables_of_a_leaf_that_do_no_harm(text, tmp_path):
    assert found(tmp_path, text)[0] == []


def test_a_config_that_mmengine_has_written_has_its_variables_left_in_it(tmp_path):
    (tmp_path / 'base.py').write_text(BASE + "test_pipeline = [dict(type='Resize', scale=(8, 8))]\n")
    cfg = Config.fromfile(tmp_path / 'base.py')
    cfg.merge_from_dict({'train_cfg.max_iters': 7})
    cfg.dump(tmp_path / 'dumped.py')
    findings = check_launch(Launch('train.py', Config.fromfile(tmp_path / 'dumped.py'), {}), [check_options])
    assert findings == []


def test_a_config_that_no_file_holds():
    findings = check_launch(Launch('train.py', Config(dict(model=dict())), {'model.x': 1}), [check_options])
    assert findings == []
