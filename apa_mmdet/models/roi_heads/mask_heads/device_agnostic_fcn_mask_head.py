import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS

from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack


@MODELS.register_module()
class DeviceAgnosticFCNMaskHead(FCNMaskHead):
    """mmdet's ``FCNMaskHead`` whose CARAFE upsampling runs on every device.

    With ``upsample_cfg=dict(type='carafe', …)`` it holds a
    :class:`~apa_mmdet.models.layers.DeviceAgnosticCARAFEPack` in place of mmcv's layer, which needs CUDA; names, shapes
    and initial values of the weights are the same. Everything else is ``FCNMaskHead``, whose arguments it takes.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.upsample_method != 'carafe':
            return
        stock = self.upsample  # FCNMaskHead builds mmcv's layer, and accepts no other registered name
        options = {key: value for key, value in self.upsample_cfg.items() if key != 'type'}
        with torch.device('meta'):  # draws no random numbers
            self.upsample = DeviceAgnosticCARAFEPack(stock.channels, stock.scale_factor, **options)
        self.upsample.load_state_dict(stock.state_dict(), assign=True)
