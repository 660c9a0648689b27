# Swin-B with AGLU in its MLPs. AGLU starts at λ = 1, κ = 1.702, where it is GELU to 0.02, so that the official weights
# of the GELU network fit.
_base_ = './faster_rcnn_se_r50_apa_v3det.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=7,
        drop_path_rate=0.3,
        act_cfg=dict(type='AGLU', lambda_init=(1.0, 1.0), kappa_init=(1.702, 1.702)),
        convert_weights=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_base_patch4_window7_224.pth',
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
# no published recipe decays λ and κ of this network
optim_wrapper = dict(paramwise_cfg=dict(activation_decay_mult=0.0))
