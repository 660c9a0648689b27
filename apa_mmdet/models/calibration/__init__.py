from .base import Calibration, name_classes
from .calibrate_scores import calibrate_scores, without_calibration
from .errors import MESSAGES, CalibrationError
from .fracal import FRACAL
from .iif import IIF

__all__ = [
    'FRACAL',
    'IIF',
    'MESSAGES',
    'Calibration',
    'CalibrationError',
    'calibrate_scores',
    'name_classes',
    'without_calibration',
]
