# Meta-ACON at every site, as its paper (arXiv:2009.04759) advises for small networks;
# the rest as mask_rcnn_se_r18_relu_gol.py.
_base_ = './mask_rcnn_se_r18_relu_gol.py'
model = dict(backbone=dict(act_cfg=dict(type='MetaAconC')))
