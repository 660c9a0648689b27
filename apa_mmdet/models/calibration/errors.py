from apa_mmdet.utils.errors import CodedError

MESSAGES = {
    'missing-file': 'stats is {path}, which is not a file; give the annotations of the training, or what '
    'tools/class_statistics.py has written of them{hint}',
    'invalid-stats': 'stats is {given}; give a path, or dict(image_count=[…], fractal_dimension=[…])',
    'invalid-calibration': "calibration must be a config, such as dict(type='FRACAL', stats='train.json'); got {given}",
    'invalid-module': "module must be a config, such as module=dict(type='MaskRCNN'); got {given}",
    'invalid-exponent': 'exponent is {given}; it must be a number of 0 or more',
    'unknown-variant': 'variant is {given}; known variants are {known}',
    'no-fractal-dimension': '{path} has no fractal dimensions; measure its annotations with '
    'tools/class_statistics.py, or calibrate only by frequency, with exponent=0',
    'class-count': '{path} has {found} classes, {head} {wanted}; give the statistics of its training data, or '
    'classes=(…), the names of its classes',
    'no-classifier': '{model} has no head whose class scores can be calibrated{seen}',
    'unknown-link': '{head} scores by {loss}, of which neither `link` nor `use_sigmoid` says how; give the loss one',
    'no-logits': '{head} does not give one logit for each class; it cannot be calibrated',
    'unknown-layout': '{head} gives class scores of the shape {shape}, not of {channels} channels for each prior; it '
    'cannot be calibrated',
}
"""Codes of :class:`CalibrationError` and their messages; those of a file are the codes of its ValidationError."""


class CalibrationError(CodedError):
    """Raised for a calibration that cannot be built, or that does not fit its model."""

    @classmethod
    def of(cls, code: str, **values: object) -> 'CalibrationError':
        """The error of a code in :data:`MESSAGES`."""
        return cls(code, 'calibration: ' + MESSAGES[code].format(**values))
