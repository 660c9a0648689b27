# The scores of mask_rcnn_se_r50_apa.py calibrated by class; its checkpoints fit, and training is the same.
_base_ = './mask_rcnn_se_r50_apa.py'
model = dict(
    type='CalibrateScores',
    module=dict(type='MaskRCNN'),
    calibration=dict(type='FRACAL', stats='{{ fileDirname }}/../_base_/datasets/lvis_v1_class_frequency.json'),
    test_cfg=dict(rcnn=dict(score_thr=1e-8)),  # the square: with GOL's link a score is the product of two
)
