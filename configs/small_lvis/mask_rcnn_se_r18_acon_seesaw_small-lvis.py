# ACON-C at every site, as its paper (arXiv:2009.04759) advises for small networks;
# the rest as mask_rcnn_se_r18_relu_seesaw_small-lvis.py.
_base_ = './mask_rcnn_se_r18_relu_seesaw_small-lvis.py'
model = dict(
    backbone=dict(
        act_cfg=dict(type='AconC'), init_cfg=dict(checkpoint='work_dirs/se_resnet18_acon_small-objects/epoch_6.pth')
    )
)
