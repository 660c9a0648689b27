import pytest
import torch
from helpers.own_data import own_content, write_own_data

from apa_mmdet.apis.convert_weights import NotConvertible
from apa_mmdet.apis.new_config.new_config import new_config
from apa_mmdet.apis.new_config.schedule_choices import Machine
from apa_mmdet.apis.new_config.weights import start_from
from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.official_names import translate_names
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.utils.config import load_config


def save(path, weights):
    torch.save(dict(state_dict=weights), path)
    return str(path)


@pytest.fixture(scope='module')
def weights():
    return SEResNet(18).state_dict()


def test_the_depth_of_a_backbone_and_its_freezing_follow_from_the_weights(weights, tmp_path):
    path = save(tmp_path / 'a.pth', weights)
    start = start_from(path)
    assert (start.kind, start.backbone['depth'], start.backbone['frozen_stages']) == ('backbone', 18, 1)
    assert start.backbone['norm_eval'] and start.neck_channels == [64, 128, 256, 512]
    assert start_from(None).backbone == dict(init_cfg=None, frozen_stages=-1, norm_eval=False)


def test_a_config_from_a_detector_trains_at_a_tenth_of_the_rate(weights, tmp_path):
    path = save(tmp_path / 'a.pth', {f'backbone.{name}': value for name, value in weights.items()})
    train, out = write_own_data(tmp_path, own_content()), tmp_path / 'own.py'
    new_config(train, str(out), val=train, machine=Machine('gpu', 1, 24, 4), weights=path)
    cfg = load_config(out)
    assert cfg.load_from == path and cfg.model.backbone.init_cfg is None and cfg.model.backbone.depth == 18
    assert cfg.model.neck.in_channels == [64, 128, 256, 512]
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02 * cfg.auto_scale_lr.base_batch_size / 16 / 10)


def test_weights_of_other_networks_are_refused(weights, tmp_path):
    names = translate_names(weights, to_official=True)
    official = {theirs: weights[ours] for ours, theirs in names.items()}
    with pytest.raises(WrongWeights, match='convert_official_weights') as error:
        start_from(save(tmp_path / 'official.pth', official))
    assert error.value.code == 'official-names'
    with pytest.raises(NotConvertible):
        start_from(save(tmp_path / 'other.pth', {'conv.weight': torch.zeros(1)}))
    torn = {name: value for name, value in weights.items() if 'layer4.1.conv2' not in name}
    train = write_own_data(tmp_path, own_content())
    torn['layer3.0.conv1.weight'] = torch.zeros(1)
    with pytest.raises(WrongWeights, match='another shape'):
        new_config(
            train,
            str(tmp_path / 'own.py'),
            val=train,
            machine=Machine('cpu', 1, 0, 1),
            weights=save(tmp_path / 'torn.pth', torn),
        )
    assert not (tmp_path / 'own.py').exists()
