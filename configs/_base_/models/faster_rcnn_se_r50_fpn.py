# Faster R-CNN, FPN, SE-ResNet-50 with AGLU activations and APA attention (SEResNet's defaults).
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    # an image has the result that it has alone, also beside a larger one in a batch
    data_preprocessor=dict(type='PaddingAwareDetDataPreprocessor'),
    rpn_head=dict(type='PaddingAwareRPNHead'),
    backbone=dict(type='SEResNet', init_cfg=dict(checkpoint='pretrained/se_resnet50_apa.pth')),
)
