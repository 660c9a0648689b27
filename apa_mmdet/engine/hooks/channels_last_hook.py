"""Training and tests in channels_last."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from apa_mmdet.models.layers import to_channels_last
from apa_mmdet.utils.model import unwrap_model


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Converts the model to channels_last before a training, validation or test.

    The same results but for rounding, with mmcv's operators guarded: see
    :func:`~apa_mmdet.models.layers.to_channels_last`.

    Example:
        >>> custom_hooks = [dict(type='ChannelsLastHook')]  # in a config
    """

    def before_run(self, runner: Runner) -> None:
        to_channels_last(unwrap_model(runner.model))
