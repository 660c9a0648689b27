"""Every path by which a user of this package loads a checkpoint reads it as data."""

import codecs
import functools
import http.server
import os
import re
import runpy
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.payloads import Does, WithAttributes, leaves_a_mark
from helpers.shrink_config import shrunk
from mmengine.config import Config
from mmengine.fileio import BaseStorageBackend
from mmengine.fileio.backends import backends
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, ModuleList, PretrainedInit
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner.checkpoint import CheckpointLoader

from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.apis.det_inferencer import StrictDetInferencer
from apa_mmdet.apis.mmdet_tools import run
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data
from apa_mmdet.checkpoint.loading import load_file
from apa_mmdet.checkpoint.scheme import data_only, read_pretrained_as_data
from apa_mmdet.deploy.export_onnx import build, load_weights
from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.visualization.learned_activation_plots import draw_checkpoint

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, tiny_data):
    """The tiny config on a few images, and its checkpoint before any training."""
    folder = tmp_path_factory.mktemp('weights_only')
    (folder / 'data').symlink_to(tiny_data(train=4, val=2, size=(96, 64)))
    cfg = shrunk(Config.fromfile(TINY), 'data/tiny_lvis/', folder / 'data')
    cfg.work_dir, cfg.default_hooks = str(folder / 'work'), {}
    runner = RUNNERS.build(cfg)
    cfg.dump(folder / 'config.py')
    runner.save_checkpoint(
        str(folder), 'good.pth', meta=dict(epoch=3, iter=7), save_optimizer=False, save_param_scheduler=False
    )
    return folder, runner


@pytest.fixture
def crafted(tiny, tmp_path):
    """A sound checkpoint with a payload among its logs, and the mark that it would leave."""
    content = load_as_data(tiny[0] / 'good.pth')
    content['message_hub']['runtime_info']['note'] = Does(*leaves_a_mark(tmp_path / 'mark'))
    (tmp_path / 'crafted').mkdir()
    torch.save(content, tmp_path / 'crafted/bad.pth')
    return tmp_path / 'crafted/bad.pth', tmp_path / 'mark'


def start(tiny, mode, path):
    """A new run from its config, up to the loading of its checkpoint."""
    folder, _ = tiny
    cfg = Config.fromfile(folder / 'config.py')
    cfg.update(load_from=str(path), resume=mode == 'resume', experiment_name=f'{mode}{os.urandom(4).hex()}')
    getattr(RUNNERS.build(cfg), 'test' if mode == 'test' else 'train')()


def initialized(tiny, backbone, **init_cfg):
    """A model with this backbone, built and initialized by our runner."""
    runner = SafeRunner(
        model=dict(
            type='mmdet.RetinaNet',
            backbone=dict(backbone, init_cfg=dict(type='Pretrained', **init_cfg)),
            neck=dict(type='mmdet.FPN', in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5),
            bbox_head=dict(
                type='mmdet.RetinaHead',
                num_classes=2,
                in_channels=8,
                feat_channels=8,
                bbox_coder=dict(type='mmdet.DeltaXYWHBBoxCoder'),
                anchor_generator=dict(
                    type='mmdet.AnchorGenerator', ratios=[1.0], scales=[8], strides=[8, 16, 32, 64, 128]
                ),
            ),
        ),
        work_dir=str(tiny[0] / 'work'),
        experiment_name=f'init{os.urandom(4).hex()}',
        default_scope='mmdet',
    )
    runner.model.init_weights()
    return runner.model.backbone


def teach(tiny, path):
    """A student of a detector whose weights are in ``path``."""
    cfg = get_config('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py')
    teacher = get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    teacher.model.backbone.init_cfg = None
    cfg.model.update(teacher_config=teacher, teacher_ckpt=str(path))
    return SafeRunner(
        model=cfg.model,
        work_dir=str(tiny[0] / 'work'),
        experiment_name=f'teach{os.urandom(4).hex()}',
        default_scope='mmdet',
    ).model


class Store(BaseStorageBackend):
    """An object store, of which ``s3://bucket/FILE`` is a local file."""

    def get(self, path):
        return Path(path.removeprefix('s3://bucket')).read_bytes()

    def get_text(self, path, encoding='utf-8'):
        return self.get(path).decode(encoding)


def export(tiny, path):
    return load_weights(built(tiny), path)


def built(tiny):
    return build(Config.fromfile(tiny[0] / 'config.py'), 'config.py')


PATHS = {
    'train': lambda tiny, path: start(tiny, 'train', path),
    'resume': lambda tiny, path: start(tiny, 'resume', path),
    'test': lambda tiny, path: start(tiny, 'test', path),
    'init_cfg of SEResNet': lambda tiny, path: initialized(
        tiny, dict(type='SEResNet', depth=18), checkpoint=str(path), prefix='backbone.'
    ),
    'init_cfg of ResNet': lambda tiny, path: initialized(
        tiny, dict(type='mmdet.ResNet', depth=18), checkpoint=str(path), prefix='backbone.'
    ),
    'StrictDetInferencer': lambda tiny, path: StrictDetInferencer(tiny[0] / 'config.py', path, 'cpu'),
    'report': lambda tiny, path: load_file(built(tiny), path),
    'plot': lambda tiny, path: draw_checkpoint(path, tiny[0] / 'config.py', path.parent, 5.0),
    'convert': lambda tiny, path: convert_file(path, path.parent / 'out.pth', str(tiny[0] / 'config.py'), True),
    'export': export,
    'teacher': teach,
}


@pytest.mark.parametrize('way', PATHS)
def test_a_payload_does_not_run_on_any_path(tiny, crafted, way):
    path, mark = crafted
    with pytest.raises(BadCheckpoint, match=rf'^{path} is refused, .* run code \((posix|nt).system\)') as refused:
        PATHS[way](tiny, path)
    assert refused.value.code == 'runs-code' and not mark.exists()


@pytest.mark.parametrize(
    'way', ['init_cfg of SEResNet', 'init_cfg of ResNet', 'StrictDetInferencer', 'report', 'plot', 'convert']
)
def test_a_sound_checkpoint_is_loaded_on_the_same_paths(tiny, tmp_path, way):
    (tmp_path / 'good.pth').write_bytes((tiny[0] / 'good.pth').read_bytes())
    assert PATHS[way](tiny, tmp_path / 'good.pth')


def test_pretrained_weights_arrive_in_the_backbone(tiny):
    backbone = PATHS['init_cfg of ResNet'](tiny, tiny[0] / 'good.pth')
    weights = load_as_data(tiny[0] / 'good.pth')['state_dict']
    assert torch.equal(backbone.conv1.weight, weights['backbone.conv1.weight'])
    assert backbone.init_cfg['checkpoint'] == data_only(tiny[0] / 'good.pth')


def test_every_form_of_pretrained_init_cfg_gets_the_scheme():
    forms = [
        dict(type='Pretrained', checkpoint='a.pth'),
        [dict(type='Constant', layer='Linear', val=0), dict(type=PretrainedInit, checkpoint='a.pth')],
        dict(type='Constant', val=0, override=dict(type='Pretrained', name='fc', checkpoint='a.pth')),
        dict(type='Constant', val=0, override=[dict(type='Pretrained', name='fc', checkpoint='a.pth')]),
    ]
    model = ModuleList(ModuleList(init_cfg=form) for form in forms)
    for _ in range(2):
        read_pretrained_as_data(model)
        assert [str(module.init_cfg).count("'apa_mmdet://a.pth'") for module in model] == [1, 1, 1, 1]


def test_a_checkpoint_at_a_url(tiny, crafted, tmp_path, monkeypatch):
    """torch.hub asks for unsafe loading, in every version."""
    path, mark = crafted
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    (path.parent / 'good.pth').write_bytes((tiny[0] / 'good.pth').read_bytes())
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f'http://127.0.0.1:{server.server_address[1]}'
        with pytest.raises(BadCheckpoint, match=r'bad.pth is refused, .*\.system'):
            CheckpointLoader.load_checkpoint(data_only(f'{url}/bad.pth'))
        assert CheckpointLoader.load_checkpoint(data_only(f'{url}/good.pth'))['meta']['epoch'] == 3
    finally:
        server.shutdown()
        server.server_close()
    assert not mark.exists()


def test_a_checkpoint_in_an_object_store(tiny, crafted, monkeypatch):
    path, mark = crafted
    monkeypatch.setitem(backends, 'petrel', Store)
    with pytest.raises(BadCheckpoint, match=rf'^s3://bucket{path} is refused, .*\.system'):
        CheckpointLoader.load_checkpoint(data_only(f's3://bucket{path}'))
    assert not mark.exists()
    content = CheckpointLoader.load_checkpoint(data_only(f's3://bucket{tiny[0] / "good.pth"}'))
    assert content['meta']['epoch'] == 3


def test_a_place_without_bytes_is_refused():
    with pytest.raises(BadCheckpoint, match='pavi://model cannot be read as data') as refused:
        CheckpointLoader.load_checkpoint(data_only('pavi://model'))
    assert refused.value.code == 'unsupported-scheme'


def test_names_of_model_zoos_are_resolved_to_urls(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    cache = tmp_path / 'hub/checkpoints'
    cache.mkdir(parents=True)
    (cache / 'resnet50_caffe-788b5fa3.pth').write_bytes((tiny[0] / 'good.pth').read_bytes())
    content = CheckpointLoader.load_checkpoint(data_only('open-mmlab://detectron/resnet50_caffe'))
    assert content['meta']['epoch'] == 3
    (cache / 'resnet18_8xb32_in1k_20210831-fbbb1da6.pth').write_bytes((tiny[0] / 'good.pth').read_bytes())
    content = CheckpointLoader.load_checkpoint(data_only('mmcls://resnet18'))
    assert [*content] == ['state_dict'] and 'conv1.weight' in content['state_dict']


@pytest.mark.parametrize(
    'variables',
    [
        ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'],
        ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'],
        ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'],
    ],
)
def test_variables_of_torch_change_nothing(tiny, crafted, monkeypatch, variables):
    path, mark = crafted
    for variable in variables:
        monkeypatch.setenv(variable, '1')
    with pytest.raises(BadCheckpoint, match='is refused, because loading it would run code'):
        CheckpointLoader.load_checkpoint(data_only(path))
    assert CheckpointLoader.load_checkpoint(data_only(tiny[0] / 'good.pth'))['meta']['epoch'] == 3
    assert not mark.exists()


def test_a_variable_that_has_no_effect_is_logged(tiny, monkeypatch):
    lines = []
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda level, line: lines.append(line))
    CheckpointLoader.load_checkpoint(data_only(tiny[0] / 'good.pth'))
    assert lines[-1] == (
        f'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD has no effect in apa_mmdet: {tiny[0] / "good.pth"} was read as data'
    )


class InitializedWhenBuilt(SEResNet):
    def __init__(self, **options):
        super().__init__(**options)
        self.init_weights()


def test_weights_of_another_network_end_a_tool_with_one_line(tmp_path, monkeypatch):
    torch.save({'stem.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    init_cfg = dict(type='Pretrained', checkpoint=f'{tmp_path}/other.pth')
    (tmp_path / 'config.py').write_text(f"model = dict(type='InitializedWhenBuilt', depth=18, init_cfg={init_cfg})")
    monkeypatch.setitem(MODELS.module_dict, 'InitializedWhenBuilt', InitializedWhenBuilt)
    monkeypatch.setattr(sys, 'argv', ['train.py', f'{tmp_path}/config.py', '--work-dir', str(tmp_path / 'work')])
    with pytest.raises(SystemExit, match=f'^{tmp_path}/other.pth does not fit this backbone: no name in common.*$'):
        run('train.py')


# ---------------------------------------------------------------- programs that checkpoints carry as text


class Small(BaseModel):
    def forward(self, inputs, mode='tensor'):
        return {}


def program(mark):
    return f'model = dict()\nopen({str(mark)!r}, "w").close()\n'


def test_the_program_text_of_a_checkpoint_is_not_run_by_resuming(tiny, tmp_path):
    """MMEngine runs ``meta.config`` for the number of GPUs in it."""
    content, mark = load_as_data(tiny[0] / 'good.pth'), tmp_path / 'mark'
    content['meta'].update(config=program(mark), cfg=program(mark))
    torch.save(dict(content, optimizer={}, param_schedulers=[]), tmp_path / 'file.pth')
    runner = tiny[1]
    runner.resume(str(tmp_path / 'file.pth'), resume_optimizer=False, resume_param_scheduler=False)
    assert (runner.epoch, runner.iter) == (3, 7) and not mark.exists()


def test_a_scheme_of_somebody_else_hands_on_no_program_either():
    meta = OrderedDict(config='program', epoch=1)
    meta.pop, content = codecs.encode, OrderedDict(meta=meta)
    content.get = codecs.encode
    CheckpointLoader.register_scheme('own://', lambda path, map_location=None: content, force=True)
    try:
        assert CheckpointLoader.load_checkpoint(data_only('own://'))['meta'] == dict(epoch=1)
    finally:
        del CheckpointLoader._schemes['own://']


def test_attributes_do_not_bring_a_program_to_a_runner(tmp_path):
    """With a ``get`` of the file's own, ``meta.config`` would seem to be absent, and run."""
    model, mark = torch.nn.Linear(1, 1), tmp_path / 'mark'
    runner = SafeRunner(model=Small(), work_dir=str(tmp_path / 'work'), experiment_name='Small' + os.urandom(4).hex())
    content = dict(
        meta=dict(epoch=1, iter=4, config=program(mark)),
        state_dict=model.state_dict(),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
    )
    torch.save(WithAttributes(OrderedDict(content), get=codecs.encode), tmp_path / 'file.pth')
    with pytest.raises(BadCheckpoint, match="may not set the attribute 'get' of its OrderedDict"):
        runner.resume(str(tmp_path / 'file.pth'))
    assert not mark.exists()


# ---------------------------------------------------------------- the tools


@pytest.mark.parametrize(
    'tool',
    [
        pytest.param('test.py', marks=pytest.mark.slow),
        'convert_official_weights.py',
        'plot_activations.py',
        'image_demo.py',
    ],
)
def test_a_tool_says_so_in_a_line(tiny, crafted, tool, tmp_path, monkeypatch, capsys):
    path, mark = crafted
    config = str(tiny[0] / 'config.py')
    arguments = {
        'test.py': [config, str(path), '--work-dir', str(tmp_path / 'work')],
        'convert_official_weights.py': [str(path), str(tmp_path / 'out.pth'), '--config', config],
        'plot_activations.py': [str(path), '--config', config],
        'image_demo.py': [str(tiny[0] / 'data'), config, str(path)],
    }[tool]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises((SystemExit, BadCheckpoint)) as ended:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    said = str(ended.value)
    assert re.fullmatch(
        rf'(\w+: )?{path} is refused, because loading it would run code \(\w+.system\); get a file that '
        'only holds weights',
        said,
    )
    assert not mark.exists() and not (tmp_path / 'out.pth').exists()
