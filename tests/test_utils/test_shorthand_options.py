import pytest
from mmengine.config import Config

from apa_mmdet.utils.config import BadConfig, load_config
from apa_mmdet.utils.shorthand_options import spell_out


def dataset(root='data/a/', **more):
    return dict(type='CocoDataset', data_root=root, ann_file='train.json', **more)


def config(**more):
    loader = dict(
        dataset=dict(type='RepeatDataset', dataset=dataset(metainfo=dict(classes=('x',), palette=[(0, 0, 0)])))
    )
    return Config(dict(train_dataloader=loader, val_dataloader=dict(dataset=dataset()), **more))


def test_a_data_root_replaces_the_old_one_where_it_begins_a_path():
    cfg = config(
        val_evaluator=[dict(ann_file='data/a/val.json'), dict(ann_file='data/abc/val.json')],
        model=dict(roi_head=dict(loss=dict(class_frequency='data/a/train.json'))),
    )
    assert spell_out(cfg, dict(data_root='/disk')) == {
        'train_dataloader.dataset.dataset.data_root': '/disk/',
        'val_dataloader.dataset.data_root': '/disk/',
        'val_evaluator.0.ann_file': '/disk/val.json',
        'model.roi_head.loss.class_frequency': '/disk/train.json',
        'data_root': '/disk',
    }


def test_classes_replace_names_palettes_and_numbers():
    cfg = config(model=dict(backbone=dict(num_classes=1000), bbox_head=[dict(num_classes=80), dict(num_classes=80)]))
    cfg.merge_from_dict(spell_out(cfg, dict(classes=['a', 'b'])))
    assert cfg.train_dataloader.dataset.dataset.metainfo == dict(classes=('a', 'b'))
    assert [head.num_classes for head in cfg.model.bbox_head] == [2, 2] and cfg.model.backbone.num_classes == 1000


def test_classes_replace_those_that_a_loss_and_a_calibration_name():
    losses = dict(named=dict(num_classes=3, classes=('x', 'y', 'z')), unnamed=dict(classes=None))
    model = dict(type='CalibrateScores', module=dict(loss=losses), calibration=dict(classes=['x', 'y', 'z']))
    cfg = config(model=model)
    cfg.merge_from_dict(spell_out(cfg, dict(classes=['a', 'b'])))
    assert cfg.model.calibration.classes == cfg.model.module.loss.named.classes == ('a', 'b')
    assert cfg.model.module.loss.unnamed.classes is None and cfg.model.module.loss.named.num_classes == 2


def test_classes_from_a_file_may_have_blanks(tmp_path):
    (tmp_path / 'names.txt').write_text('traffic light\n\ncup, or mug\n', encoding='utf-8-sig')
    full = spell_out(config(), dict(classes=str(tmp_path / 'names.txt')))
    assert full['val_dataloader.dataset.metainfo'] == dict(classes=('traffic light', 'cup, or mug'))


def test_a_length_moves_the_schedule_in_proportion():
    schedule = [
        dict(type='LinearLR', by_epoch=False, begin=0, end=500),
        dict(type='QuadraticWarmupLR', by_epoch=True, begin=0, end=5),
        dict(type='CosineAnnealingLR', begin=5, T_max=285, end=285, convert_to_iter_based=True),
    ]
    loop = dict(max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)])
    cfg = config(train_cfg=loop, param_scheduler=schedule, custom_hooks=[dict(type='X'), dict(switch_epoch=280)])
    cfg.merge_from_dict(spell_out(cfg, dict(max_epochs=30)))
    assert cfg.train_cfg == dict(max_epochs=30, val_interval=10, dynamic_intervals=[(28, 1)])
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 500), (0, 1), (1, 28)]
    assert cfg.param_scheduler[2].T_max == 28 and cfg.custom_hooks[1].switch_epoch == 28


def test_a_setting_in_full_comes_first():
    cfg = config(train_cfg=dict(max_epochs=24))
    cfg.merge_from_dict(spell_out(cfg, {'train_cfg.max_epochs': 5, 'max_epochs': 3}))
    assert cfg.train_cfg.max_epochs == 5


@pytest.mark.parametrize(
    'options, line',
    [
        (dict(max_epochs=0), 'max_epochs=0 is not a whole number of 1 or more'),
        (dict(max_epochs=2), 'its training does not count max_epochs; set max_iters'),
        (dict(data_root=''), "data_root='' is not a folder"),
        (dict(classes=[1]), r'classes=\[1\]; give names, as apple,pear,plum, or a text file of them'),
    ],
)
def test_an_option_that_cannot_be_applied(options, line):
    with pytest.raises(BadConfig, match=line) as caught:
        spell_out(config(train_cfg=dict(max_iters=10)), options)
    assert caught.value.code == 'bad-option'


def test_data_sets_in_several_places_have_no_common_root():
    cfg = Config(dict(train_dataloader=dict(dataset=dict(datasets=[dataset(), dataset('data/b/')]))))
    with pytest.raises(BadConfig, match='set train_dataloader.dataset.datasets.0.data_root, train_dataloader'):
        spell_out(cfg, dict(data_root='/disk'))


def test_load_config_applies_them_and_names_the_file(tmp_path):
    path = tmp_path / 'c.py'
    path.write_text('max_epochs = 4\ntrain_cfg = dict(max_epochs=max_epochs)\n')
    assert load_config(path, dict(max_epochs=2)).train_cfg.max_epochs == 2
    with pytest.raises(BadConfig, match=f'^config {path}: max_epochs=-1 is not'):
        load_config(path, dict(max_epochs=-1))


def test_a_scheduler_keeps_a_step_in_a_training_of_one_epoch():
    """MMEngine refuses one that ends where it begins."""
    schedulers = [dict(type='LinearLR', end=3), dict(type='CosineAnnealingLR', begin=3, end=100, T_max=97)]
    cfg = Config(dict(train_cfg=dict(max_epochs=100), param_scheduler=schedulers))
    full = spell_out(cfg, dict(max_epochs=1))
    assert (full['param_scheduler.1.begin'], full['param_scheduler.1.end']) == (1, 2)
    assert spell_out(cfg, dict(max_epochs=50))['param_scheduler.1.end'] == 50
