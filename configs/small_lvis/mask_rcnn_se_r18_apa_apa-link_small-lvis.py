# AGLU and APA with DropLoss over the learnable APA link instead of the Gumbel link of GOL, near which it starts;
# the rest as mask_rcnn_se_r18_apa_small-lvis.py.
_base_ = './mask_rcnn_se_r18_apa_small-lvis.py'
# from λ = 1, a sigmoid, mask AP is 0.074 lower (docs/ablation.md)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(link=dict(_delete_=True, type='apa', lambda_init=0.01)))))
