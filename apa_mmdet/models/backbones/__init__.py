from .se_resnet import SEResNet
from .se_resnet_cifar import SEResNetCifar
from .se_resnext import SEResNeXt

__all__ = ['SEResNeXt', 'SEResNet', 'SEResNetCifar']
