# 24 epochs of 16 images a step: SGD 0.02, warm-up over 500 iterations, x0.1 after 16 and 22.
_base_ = './schedule_2x.py'
train_cfg = dict(val_interval=24)  # evaluating LVIS takes long
optim_wrapper = dict(paramwise_cfg=dict(activation_decay_mult=dict(AGLU=1.0, APA=1.0)))  # as published
