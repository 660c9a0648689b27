import pytest
import torch
from helpers.tiny_runs import log_of, tinier
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner


@pytest.fixture(scope='module')
def data(tiny_data):
    return tiny_data(train=4, val=2, size=(96, 64))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_detector_trains_in_mixed_precision_on_a_cpu(dtype, data, tmp_path):
    if dtype == 'float16' and not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('float16 on a CPU needs torch 2.3')
    runner = Runner.from_cfg(
        tinier(
            data,
            tmp_path,
            **{
                'optim_wrapper.type': 'MixedPrecisionOptimWrapper',
                'optim_wrapper.dtype': dtype,
                'optim_wrapper.loss_scale': dict(init_scale=64.0),
            },
        )
    )
    dtypes = {}
    for name in ('backbone.layer1.0.act_conv1', 'neck', 'rpn_head', 'roi_head.bbox_head.fc_cls', 'roi_head.mask_head'):
        runner.model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: dtypes.update({name: inputs[0][0].dtype})
        )
    before = {name: p.clone() for name, p in runner.model.named_parameters()}
    runner.train()
    half = getattr(torch, dtype)
    # half but for what RoIAlign and NMS get
    assert dtypes == {
        'backbone.layer1.0.act_conv1': half,
        'neck': half,
        'rpn_head': torch.float32,
        'roi_head.bbox_head.fc_cls': half,
        'roi_head.mask_head': torch.float32,
    }
    after = dict(runner.model.named_parameters())
    learned = [name for name in before if not torch.equal(before[name], after[name])]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    assert any(name.endswith('lambda_') for name in learned) and any('mask_head' in name for name in learned)
    assert 'step skipped' not in log_of(tmp_path)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="must be one of float16, bfloat16, got 'float8'"):
        OPTIM_WRAPPERS.build(
            dict(
                type='MixedPrecisionOptimWrapper',
                dtype='float8',
                optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
            )
        )


def scaler(**cfg):
    cfg = dict(type='MixedPrecisionOptimWrapper', dtype='bfloat16', **cfg)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    return OPTIM_WRAPPERS.build(dict(cfg, optimizer=optimizer))


@pytest.mark.parametrize('loss_scale', ['512', 'Dynamic', None, True, 0, -2.0, float('inf'), [512]], ids=str)
def test_a_loss_scale_that_is_none_is_refused(loss_scale):
    with pytest.raises(ValueError, match="loss_scale must be 'dynamic', a number above 0, or a dict .*, got ") as error:
        scaler(loss_scale=loss_scale)
    assert str(error.value).endswith(repr(loss_scale))


def test_a_number_is_a_fixed_loss_scale():
    assert scaler(loss_scale=512)._scale_update_param == 512.0
    assert scaler()._scale_update_param is scaler(loss_scale=dict(init_scale=4.0))._scale_update_param is None
