"""The weights that a training starts from."""

from typing import Any, NamedTuple

from apa_mmdet.apis.convert_weights import infer_backbone
from apa_mmdet.checkpoint.compare import CODES, WrongWeights
from apa_mmdet.checkpoint.io import read_checkpoint
from apa_mmdet.checkpoint.official_names import translate_names

PREFIX = 'backbone.'
CHANNELS = {True: [256, 512, 1024, 2048], False: [64, 128, 256, 512]}  # of the stages: with bottlenecks, without


class Start(NamedTuple):
    """Where a training starts.

    Attributes:
        kind: from ``random`` weights, those of a ``backbone``, or those of a ``detector``.
        backbone: settings of the backbone.
        reason, phrase: for the comments.
        load_from: the detector's file.
        neck_channels: those of the stages, where the base config may have others.
    """

    kind: str
    backbone: dict[str, Any]
    reason: str
    phrase: str
    load_from: str | None = None
    neck_channels: list[int] | None = None


def start_from(path: str | None) -> Start:
    """Reads which network has the weights of a file; None: random weights.

    Raises:
        OSError, BadCheckpoint: if the file cannot be read, or holds no weights.
        WrongWeights: ``official-names``, if it has to be converted first.
        NotConvertible: if it is not an SE-ResNet of this project.
    """
    if path is None:
        return Start(
            'random',
            dict(init_cfg=None, frozen_stages=-1, norm_eval=False),
            'From random weights: no stage is frozen, norms are trained; --weights FILE starts from pretrained ones.',
            'from random weights',
        )
    weights = read_checkpoint(path).weights
    official = next((name for name, ours in translate_names(weights).items() if ours != name), None)
    if official:
        what = f'{path}: {official} is an official name'
        raise WrongWeights('official-names', f'{what}; {CODES["official-names"]}')
    is_detector = any(name.startswith(PREFIX) for name in weights)
    inner = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    backbone = infer_backbone(inner if is_detector else weights)
    neck = CHANNELS[backbone['depth'] >= 50]
    name = f'{backbone["type"]}-{backbone["depth"]}'
    backbone.update(frozen_stages=1, norm_eval=True)
    frozen = 'stem and stage 1 are frozen, and the statistics of norms'
    if is_detector:
        return Start(
            'detector',
            dict(backbone, init_cfg=None),
            f'From a detector with {name}: {frozen}. What depends on the classes starts from random weights.',
            'from a detector',
            path,
            neck,
        )
    init_cfg = dict(_delete_=True, type='Pretrained', checkpoint=path)  # the base may have none
    return Start(
        'backbone', dict(backbone, init_cfg=init_cfg), f'From {name}: {frozen}.', 'from pretrained weights', None, neck
    )
