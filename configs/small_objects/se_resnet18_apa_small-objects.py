# SE-ResNet-18 on the 360 classes of the small LVIS, one object an image, as tools/make_tiny_lvis.py --form
# small_objects draws them; configs/small_lvis/mask_rcnn_se_r18_apa_small-lvis.py starts from it. The rest as
# se_resnet18_apa_tiny-objects.py.
_base_ = '../tiny_objects/se_resnet18_apa_tiny-objects.py'

# model
num_classes = 360
model = dict(data_preprocessor=dict(num_classes=num_classes), head=dict(num_classes=num_classes))

# data
data_root = 'data/small_objects/'
metainfo = dict(
    classes=tuple(
        f'{mark}_{surface}_{color}_{shape}'
        for mark in ('bar', 'blank', 'cap', 'dot', 'ring')
        for surface in ('checkered', 'plain', 'striped')
        for color in ('blue', 'orange', 'red', 'violet')
        for shape in ('cross', 'disk', 'heart', 'square', 'star', 'triangle')
    )
)
train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
