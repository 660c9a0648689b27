# ACON-C at every site, as its paper (arXiv:2009.04759) advises for small networks;
# the rest as se_resnet18_relu_sigmoid_small-objects.py.
_base_ = './se_resnet18_relu_sigmoid_small-objects.py'
model = dict(backbone=dict(act_cfg=dict(type='AconC')))
