# AGLU and APA with DropLoss over the learnable APA link instead of the Gumbel link of GOL;
# the rest as mask_rcnn_se_r18_apa_small-lvis.py.
_base_ = './mask_rcnn_se_r18_apa_small-lvis.py'
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(link='apa'))))
