from .instance_tta_model import InstanceTTAModel

__all__ = ['InstanceTTAModel']
