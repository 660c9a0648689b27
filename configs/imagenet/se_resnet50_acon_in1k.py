# ACON-C after the 3x3 of every block and ReLU elsewhere, as its paper (arXiv:2009.04759) advises for this depth; the
# rest as se_resnet50_relu_sigmoid_in1k.py.
_base_ = './se_resnet50_relu_sigmoid_in1k.py'
model = dict(
    backbone=dict(
        act_cfg=dict(
            _delete_=True,
            stem=dict(type='ReLU'),
            conv1=dict(type='ReLU'),
            conv2=dict(type='AconC'),
            out=dict(type='ReLU'),
        )
    )
)
