# AGLU and APA with DropLoss over the learnable APA link instead of the Gumbel link of GOL;
# the rest as mask_rcnn_se_r18_apa_small-lvis.py.
_base_ = './mask_rcnn_se_r18_apa_small-lvis.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(link=dict(_delete_=True, type='apa', lambda_init=1.0)),
            init_cfg=[
                # a class starts at p = 6e-4, as with the Gumbel link; from −2, p = 0.12, the first steps diverge
                dict(type='Constant', val=0.001, bias=-7.4, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                dict(type='Xavier', distribution='uniform', override=dict(name='shared_fcs')),
            ],
        )
    )
)
