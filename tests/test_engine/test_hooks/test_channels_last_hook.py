"""A detector in channels_last against itself in contiguous tensors, with mmcv's operators as strict as on a GPU."""

import numpy as np
import torch
from helpers.tiny_runs import tinier
from mmengine.runner import Runner


def losses_and_gradients(model, batch):
    torch.manual_seed(0)
    np.random.seed(0)  # samplers and dropout draw
    model.zero_grad()
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
    losses.backward()
    return losses.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def detections(model, batch):
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor(batch), mode='predict')
    return [
        (one.pred_instances.bboxes, one.pred_instances.scores, one.pred_instances.masks.float().mean()) for one in found
    ]


def test_losses_gradients_and_detections_stay_the_same(tiny_data, strict_operators, tmp_path):
    data = tiny_data(train=4, val=2, size=(96, 64))
    runner = Runner.from_cfg(tinier(data, tmp_path, custom_hooks=[dict(type='ChannelsLastHook')]))
    model, layouts = runner.model, []
    model.init_weights()
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    batch = next(iter(runner.train_dataloader))
    for sample in batch['data_samples']:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    runner.call_hook('before_run')
    model.neck.register_forward_hook(lambda module, inputs, maps: layouts.append(maps[0].is_contiguous()))
    got, found = losses_and_gradients(model, batch), detections(model, batch)
    assert layouts == [False, False]
    assert {'nms', 'roi_align_forward', 'roi_align_backward'} <= strict_operators
    model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(detections(model, batch), found, rtol=1e-3, atol=1e-3)
    loss, gradients = losses_and_gradients(model.train(), batch)
    assert layouts == [False, False, True, True]
    torch.testing.assert_close(got[0], loss)
    assert got[1].keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (got[1][name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name
