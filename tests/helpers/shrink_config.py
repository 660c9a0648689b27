"""Configs at the size of a test: data in another place, of a few pixels, loaded without worker processes."""

from mmengine.config import Config, ConfigDict

SIDE = 96
SIZES = dict(  # type of a transform: the arguments that say how large its pictures are
    Resize=dict(scale=(SIDE, 64)),
    RandomChoiceResize=dict(scales=[(SIDE, 64), (120, 80)]),
    RandomResize=dict(scale=(120, 120)),
    RandomCrop=dict(crop_size=(64, 64)),
    Pad=dict(size=(SIDE, SIDE)),
    CachedMosaic=dict(img_scale=(SIDE, SIDE)),
    CachedMixUp=dict(img_scale=(SIDE, SIDE)),
)


def shrunk(cfg, root, data):
    """``cfg`` with the data set under ``data`` instead of ``root``, and small pictures."""

    def change(node):
        for key, value in node.items():
            if isinstance(value, str) and f'{value}/'.startswith(root):  # a folder may lack the slash
                node[key] = str(data / value[len(root) :])
        node.update({key: size for key, size in SIZES.get(node.get('type'), {}).items() if key in node})
        if 'num_workers' in node:
            node.update(num_workers=0, persistent_workers=False)
        return node

    # its text not laid out: for that yapf takes seconds, at each start and each checkpoint
    return Config(ConfigDict(_changed(cfg._cfg_dict.to_dict(), change)), format_python_code=False)


def _changed(node, change):
    """The config with every dict in it passed through ``change``."""
    if isinstance(node, dict):
        return change({key: _changed(value, change) for key, value in node.items()})
    return type(node)(_changed(value, change) for value in node) if isinstance(node, (list, tuple)) else node


def two_steps(cfg):
    """``cfg`` for two steps of two images from random weights, and one evaluation."""
    cfg.model.backbone.init_cfg = None
    if 'norm_eval' in cfg.model.backbone:  # as the README says of training from random weights
        cfg.model.backbone.update(frozen_stages=-1, norm_eval=False)
    cfg.train_dataloader.batch_size = 2
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.optim_wrapper.optimizer.weight_decay = 0.0  # would change every parameter
    if 'start_factor' in cfg.param_scheduler[0]:
        cfg.param_scheduler[0].start_factor = 1.0  # no warm-up: two steps must change the weights
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pop('activation_stats', None)  # draws for longer than two steps take
    return cfg
