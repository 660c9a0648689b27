# APALU at every site, as the ACONs;
# the rest as mask_rcnn_se_r18_relu_seesaw_small-lvis.py.
_base_ = './mask_rcnn_se_r18_relu_seesaw_small-lvis.py'
model = dict(
    backbone=dict(
        act_cfg=dict(type='APALU'), init_cfg=dict(checkpoint='work_dirs/se_resnet18_apalu_small-objects/epoch_6.pth')
    )
)
