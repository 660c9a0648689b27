from .se_resnet import SEResNet

__all__ = ['SEResNet']
