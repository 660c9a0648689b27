"""Configs for data of one's own: what is written passes the checks of a start, and names its reasons."""

import json
import re
from copy import deepcopy

import pytest
import torch
from helpers.own_data import NAMES, own_content, write_own_data
from helpers.paths import ROOT
from helpers.programs import start_program, succeed

from apa_mmdet.apis.new_config import rules
from apa_mmdet.apis.new_config.annotations import BadData
from apa_mmdet.apis.new_config.new_config import new_config, this_machine
from apa_mmdet.apis.new_config.schedule_choices import Machine
from apa_mmdet.datasets.lvis_form import as_lvis
from apa_mmdet.utils.config import build_detector, load_config
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.findings import ValidationError

CPU, GPUS = Machine('cpu', 1, 24, 2), Machine('gpu', 2, 24, 16)


def comments(path):
    """The comments of a config as one line."""
    lines = [line[2:] for line in path.read_text().splitlines() if line.startswith('# ')]
    return ' '.join(lines)


def test_a_config_with_a_split_explains_its_numbers_and_builds(tmp_path):
    content = own_content(images=30)
    train = write_own_data(tmp_path, content, 'trainval.json')
    out = tmp_path / 'own.py'
    written = new_config(train, str(out), split=0.2, machine=CPU)
    cfg = load_config(out)
    assert (
        written.command == f'python tools/train.py {out}' and written.warnings == [] and str(written).endswith('own.py')
    )
    assert cfg.classes == NAMES and cfg.data_root == str(tmp_path)
    parts = [json.loads((tmp_path / f'trainval_{part}.json').read_text()) for part in ('train', 'val')]
    assert [len(part['images']) for part in parts] == [24, 6]
    assert cfg.val_evaluator.metric == ['bbox', 'segm'] and cfg.val_evaluator.type == 'FastCocoMetric'
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 4
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(8e-4 * 4 / 8)
    assert cfg.param_scheduler[1].T_max == cfg.train_cfg.max_epochs == 40
    moved = load_config(out, dict(data_root='/new'))
    assert moved.val_evaluator.ann_file == '/new/trainval_val.json' and moved.val_dataloader.dataset.data_root == '/new'
    text = comments(out)
    for number in (
        '24 images',
        '3 classes',
        '6 of 30 images are held out',
        '4 images a step',
        '40 epochs of 6 steps',
        '64x48',
    ):
        assert number in text, number
    assert [p.num_classes for p in build_detector(cfg, out).roi_head.children() if hasattr(p, 'num_classes')] == [3, 3]


@pytest.mark.parametrize('form', ['coco', 'lvis'])
def test_a_tail_of_few_images_takes_calibrated_scores_and_a_file_of_names(form, tmp_path):
    content = own_content(images=300, names=[f'kind {i}' for i in range(299)], per_image=99)
    if form == 'lvis':
        content = as_lvis(content, 'train.json')
    train, out = write_own_data(tmp_path, content), tmp_path / 'own.py'
    written = new_config(train, str(out), val=train, machine=GPUS, boxes=True)
    cfg = load_config(out)
    assert written.files == [str(out), str(tmp_path / 'own_classes.txt')] and cfg.classes[-1] == 'kind 298'
    assert cfg.model.type == 'CalibrateScores' and cfg.model.module == dict(type='FasterRCNN')
    assert cfg.model.calibration == dict(type='FRACAL', stats=train, classes=cfg.classes)
    loss = cfg.model.roi_head.bbox_head.loss_cls
    assert loss.type == 'SeesawLoss' and loss.num_classes == 299
    assert cfg.model.test_cfg.rcnn.score_thr == pytest.approx(1e-4) and cfg.model.roi_head.mask_head is None
    head = build_detector(cfg, out).roi_head.bbox_head
    assert head.score_calibration.num_classes == head.num_classes == 299
    fewer = load_config(out, dict(classes=['kind 3', 'kind 1']))
    assert build_detector(fewer, out).roi_head.bbox_head.score_calibration.num_classes == 2
    assert cfg.train_dataloader.dataset.oversample_thr == pytest.approx(24 / 300)
    assert cfg.train_dataloader.batch_size == 8 and cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02)
    evaluator, dataset = (('FastLVISMetric', 'SelectiveLVISV1Dataset'), ('FastCocoMetric', 'CocoDataset'))[
        form == 'coco'
    ]
    assert (cfg.val_evaluator.type, cfg.val_dataloader.dataset.type) == (evaluator, dataset)
    assert ('frequency_groups' in cfg.val_evaluator) == (form == 'coco')
    assert written.command.endswith('dist_train.sh ' + f'{out} 2')
    assert 'images of the training: AP tells nothing' in comments(out) and '--score-thr 0.2.' in comments(out)


def test_a_tail_of_many_images_takes_gol(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, 'MANY_IMAGES', 300)
    content = own_content(images=300, names=[f'kind {i}' for i in range(299)], per_image=99)
    train, out = write_own_data(tmp_path, content), tmp_path / 'own.py'
    new_config(train, str(out), val=train, machine=GPUS, boxes=True)
    cfg = load_config(out)
    loss = cfg.model.roi_head.bbox_head.loss_cls
    assert loss.type == 'DropLoss' and loss.class_frequency == train and loss.num_classes == 299
    assert loss.frequency_threshold == pytest.approx(10.5 / 300) and '3.5% of the 300 annotated' in comments(out)
    assert cfg.model.type == 'FasterRCNN' and cfg.model.roi_head.mask_head is None


def test_instances_without_masks_get_a_head_that_ignores_them(tmp_path):
    content = own_content()
    for annotation in content['annotations'][::4]:
        del annotation['segmentation']
    train, out = write_own_data(tmp_path, content), tmp_path / 'own.py'
    val = write_own_data(tmp_path, own_content(images=6), 'val.json')
    written = new_config(train, str(out), val=val, machine=CPU)
    assert [finding.code for finding in written.warnings] == ['partial-masks', 'trained-and-evaluated']
    cfg = load_config(out)
    assert cfg.model.roi_head.mask_head.type == 'PartiallyLabeledMaskHead'
    assert cfg.train_dataloader.dataset.pipeline[1].type == 'LoadPartialMaskAnnotations'
    assert '75.0% of the instances have a mask' in comments(out)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    new_config(train, str(out), val=write_own_data(tmp_path, content, 'val.json'), machine=CPU, force=True)
    assert load_config(out).val_evaluator.metric == 'bbox'
    assert 'Masks are not evaluated: 25.0% of the validation instances have none.' in comments(out)


def test_what_a_training_would_refuse_is_not_written(tmp_path):
    train, out = write_own_data(tmp_path, own_content()), tmp_path / 'own.py'
    (tmp_path / 'images/7.png').unlink()
    with pytest.raises(BadData, match=r'missing images: 1 of 24.*7\.png.*missing-image') as error:
        new_config(train, str(out), val=train, machine=CPU)
    assert error.value.code == 'findings' and not out.exists()


def change(kind, **values):
    """A change: all records of a list get values, of functions those of the record; None removes the field."""

    def apply(content):
        for record in content[kind]:
            record.update({key: value(record) if callable(value) else value for key, value in values.items()})
            for key in [key for key, value in values.items() if value is None]:
                del record[key]

    return apply


BROKEN = dict(  # change of the training and of the validation annotations, code, what the line has
    no_categories=(lambda c: c.update(categories=[]), None, 'records', 'no "categories"'),
    no_annotations=(lambda c: c.update(annotations=[]), None, 'records', 'no "annotations"'),
    no_images=(lambda c: c.pop('images'), None, 'records', 'no "images"'),
    only_crowds=(change('annotations', iscrowd=1), None, 'records', 'no-training-instance'),
    a_name_twice=(change('categories', name='fig'), None, 'records', 'duplicate-category'),
    ids_as_texts=(change('images', id=lambda r: str(r['id'])), None, 'records', 'id-type-mismatch'),
    no_area=(change('annotations', area=None), None, 'records', 'invalid-field'),
    no_file_name=(change('images', file_name=None), None, 'records', 'invalid-image-path'),
    elsewhere=(change('images', file_name=lambda r: f'a/b/{r["id"]}'), None, 'images-not-found', '--images'),
    windows=(change('images', file_name=lambda r: f'a\\{r["id"]}'), None, 'images-not-found', 'write /'),
    absolute=(change('images', file_name=lambda r: f'/a/{r["id"]}'), None, 'images-not-found', 'correct "file_name"'),
    empty_val=(None, lambda c: c.update(annotations=[]), 'records', 'val .*no "annotations"'),
    other_class=(None, lambda c: c['categories'][0].update(name='apple'), 'other-categories', 'e.g. date, are not'),
    other_order=(None, lambda c: c['categories'].reverse(), 'other-categories', 'another order'),
)


@pytest.mark.parametrize('fault', BROKEN)
def test_a_broken_input_is_a_line_that_names_the_file(fault, tmp_path):
    of_train, of_val, code, line = BROKEN[fault]
    content = own_content()
    write_own_data(tmp_path, content)
    paths = []
    for name, edit in (('train.json', of_train), ('val.json', of_val)):
        changed = deepcopy(content)
        if edit:
            edit(changed)
        (tmp_path / name).write_text(json.dumps(changed))
        paths.append(str(tmp_path / name))
    with pytest.raises(BadData, match=line) as error:
        new_config(paths[0], str(tmp_path / 'own.py'), val=paths[1], machine=CPU)
    assert error.value.code == code and paths[of_train is None] in str(error.value)
    assert [path.name for path in tmp_path.glob('own*')] == []


def test_files_that_cannot_be_read_or_must_not_be_overwritten(tmp_path):
    train, out = write_own_data(tmp_path, own_content()), str(tmp_path / 'own.py')
    with pytest.raises(FileNotFoundError):
        new_config(str(tmp_path / 'none.json'), out, val=train, machine=CPU)
    (tmp_path / 'odd.json').write_text('{"images": 1')
    with pytest.raises(ValidationError, match=r'odd\.json'):
        new_config(str(tmp_path / 'odd.json'), out, val=train, machine=CPU)
    with pytest.raises(BadData, match='--val FILE.*--split') as error:
        new_config(train, out, machine=CPU)
    assert error.value.code == 'no-validation'
    with pytest.raises(BadData, match=r'is not in .*; a "file_name" begins below that folder'):
        new_config(train, out, val=train, images='/nowhere', machine=CPU)
    (tmp_path / 'own.py').write_text('')
    with pytest.raises(FileExistsError, match='--force'):
        new_config(train, out, val=train, machine=CPU)
    (tmp_path / 'train_val.json').write_text('[]')
    with pytest.raises(FileExistsError, match=r'train_val\.json exists'):
        new_config(train, str(tmp_path / 'b.py'), split=0.5, machine=CPU)
    with pytest.raises(CodedError, match=r'NAME\.py') as error:
        new_config(train, str(tmp_path / 'own.yaml'), val=train, machine=CPU)
    assert error.value.code == 'bad-name'


def test_the_machine_is_this_one_unless_it_is_named():
    assert this_machine('gpu', 4, 40.0)[:3] == ('gpu', 4, 40) and this_machine('cpu', 4).gpus == 1
    here = this_machine()
    assert here.device == ('gpu' if torch.cuda.is_available() else 'cpu') and here.cores >= 1


@pytest.mark.slow
@pytest.mark.parametrize('form', ['coco masks', 'coco some masks', 'coco boxes', 'lvis masks'])
def test_the_printed_command_trains_and_the_result_is_tested(form, tiny_data, tmp_path):
    data = tiny_data('tiny_lvis' if 'lvis' in form else 'coco', train=8, val=2) / 'annotations'
    train, val = (str(next(data.glob(f'*{split}*.json'))) for split in ('train', 'val'))
    if 'masks' not in form or 'some' in form:
        content = json.loads((data / 'instances_train2017.json').read_text())
        for annotation in content['annotations'][:: 1 if 'boxes' in form else 3]:
            del annotation['segmentation']
        train = str(tmp_path / 'train.json')
        (tmp_path / 'train.json').write_text(json.dumps(content))
    images = [] if 'lvis' in form else ['--images', data.parent / 'train2017', '--val-images', data.parent / 'val2017']
    new = start_program(
        ROOT / 'tools/new_config.py', train, 'own.py', '--val', val, '--device', 'cpu', *images, cwd=tmp_path
    )
    command = succeed(new).splitlines()[-1].split()
    assert command[:2] == ['python', 'tools/train.py']
    few = '--cfg-options', 'model.test_cfg.rcnn.score_thr=1e-5', 'model.test_cfg.rcnn.max_per_img=5'
    log = succeed(start_program(ROOT / command[1], *command[2:], *few, 'max_epochs=1', cwd=tmp_path))
    kind, prefix = 'bbox' if 'boxes' in form else 'segm', 'lvis' if 'lvis' in form else 'coco'
    assert re.search(rf'{prefix}/{kind}_m?AP: ', log) and ('loss_mask' in log) == ('masks' in form)
    tested = succeed(start_program(ROOT / 'tools/test.py', 'own.py', 'work_dirs/own/epoch_1.pth', *few, cwd=tmp_path))
    assert re.search(rf'{prefix}/{kind}_m?AP: ', tested)
