"""What ablation.py compares: studies, each of some arms that are trained alike on one data set.

An arm is a config. With one seed all arms see the data in one order and start, by :func:`write_shared_weights`, from
the same values of the weights that they have in common.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import measure
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.utils import set_random_seed

CONFIGS = measure.ROOT / 'configs'


class Arm(NamedTuple):
    """A config, and what sets it apart from other arms; ``options`` are those of tools/train.py and tools/test.py."""

    config: str
    activation: str
    gate: str
    loss: str
    weights: str = 'random'
    options: tuple[str, ...] = ()


class Run(NamedTuple):
    """An arm, tested with a calibration of its scores."""

    arm: str
    calibration: str = 'none'

    def __str__(self) -> str:
        return self.arm if self.calibration == 'none' else f'{self.arm}+{self.calibration}'

    @classmethod
    def parse(cls, text: str) -> 'Run':
        """The run that is written so."""
        return cls(*text.split('+'))


class Study(NamedTuple):
    """Arms on one data set.

    Attributes:
        folder: of the configs, below ``configs``.
        arms: by name.
        reference: the arm whose weights the others share.
        seeds: those that the table averages.
        data: the folder of the images on which the arms are tested.
        baseline: with which all others are compared.
        others: further pairs to compare, the second with the first.
        calibrations: by name; ``fracal`` takes the statistics of the training images.
    """

    folder: str
    arms: dict[str, Arm]
    reference: str
    seeds: tuple[int, ...]
    data: str
    baseline: Run
    others: tuple[tuple[str, str], ...] = ()
    calibrations: tuple[str, ...] = ('none', 'fracal')

    def pairs(self) -> list[tuple[Run, Run]]:
        """The pairs to compare, the baseline's first."""
        runs = [Run(arm, calibration) for arm in self.arms for calibration in self.calibrations]
        others = [(Run.parse(a), Run.parse(b)) for a, b in self.others]
        return [(self.baseline, run) for run in runs if run != self.baseline] + others

    def label(self, run: Run) -> str:
        """What a reader is told of a run."""
        arm = self.arms[run.arm]
        activation = arm.activation if arm.gate == 'sigmoid' else f'{arm.activation} + {arm.gate}'
        parts = [activation, arm.loss]
        if len({arm.weights for arm in self.arms.values()}) > 1:
            parts.append(arm.weights)
        return ', '.join([*parts, *([run.calibration.upper()] if run.calibration != 'none' else [])])

    def config(self, arm: str) -> Path:
        return CONFIGS / self.folder / f'{self.arms[arm].config}.py'

    def configs(self) -> list[Path]:
        """The configs of the arms, once each; only those of random weights, if there are any."""
        names = [name for name, arm in self.arms.items() if arm.weights == 'random'] or self.arms
        return list(dict.fromkeys(self.config(name) for name in names))

    def test_options(self, arm: str, calibration: str) -> list[str]:
        """Options of tools/test.py."""
        annotations = f'{self.data}/annotations/lvis_v1_{{}}.json'
        options = [f'test_dataloader.dataset.data_root={self.data}/', f'test_evaluator.ann_file={annotations}']
        options = [option.format('val') for option in options]
        if calibration == 'fracal':
            options += ['model.type=CalibrateScores', 'model.module.type=MaskRCNN', 'model.calibration.type=FRACAL']
            options.append(f'model.calibration.stats={annotations.format("train")}')
            if not self.arms[arm].loss.startswith(
                SOFTMAX
            ):  # a score is the product of two: the square of the threshold
                threshold = Config.fromfile(self.config(arm)).model.test_cfg.rcnn.score_thr ** 2
                options.append(f'model.test_cfg.rcnn.score_thr={threshold:g}')
        return options


SOFTMAX = ('softmax CE', 'Seesaw')
PREDICTOR = 'model.roi_head.bbox_head.cls_predictor_cfg.type'  # the classifier of Seesaw's recipe
LINK = 'model.roi_head.bbox_head.loss_cls.link'
CLASSIFIER_BIAS, CLASSIFIER_WEIGHTS = (f'model.roi_head.bbox_head.init_cfg.0.{name}' for name in ('bias', 'val'))
GATE = 'model.backbone.se_cfg'
BACKBONE = 'model.backbone.init_cfg.checkpoint'
DROP = 'model.roi_head.bbox_head.loss_cls.frequency_threshold'
STUDIES = dict(
    tiny_lvis=Study(
        folder='tiny_lvis',
        arms={
            'apa-link-pretrained': Arm('mask_rcnn_se_r18_apa_pretrained', 'AGLU', 'APA', 'Gumbel link', 'pretrained'),
            'relu-link-pretrained': Arm(
                'mask_rcnn_se_r18_relu_gol_pretrained', 'ReLU', 'sigmoid', 'Gumbel link', 'pretrained'
            ),
            'apa-link': Arm('mask_rcnn_se_r18_apa', 'AGLU', 'APA', 'Gumbel link'),
            'relu-link': Arm('mask_rcnn_se_r18_relu_gol', 'ReLU', 'sigmoid', 'Gumbel link'),
            'apa-gol-pretrained': Arm(
                'mask_rcnn_se_r18_apa_pretrained', 'AGLU', 'APA', 'GOL', 'pretrained', (f'{DROP}=0.0125',)
            ),
            'relu-softmax': Arm('mask_rcnn_se_r18_relu_softmax', 'ReLU', 'sigmoid', 'softmax CE'),
            'apa-softmax': Arm('mask_rcnn_se_r18_apa_softmax', 'AGLU', 'APA', 'softmax CE'),
            'apa-seesaw': Arm('mask_rcnn_se_r18_apa_seesaw', 'AGLU', 'APA', 'Seesaw'),
            'apa-link-no-dropout': Arm(
                'mask_rcnn_se_r18_apa', 'AGLU', 'APA without dropout', 'Gumbel link', options=(f'{GATE}.dropout=0.0',)
            ),
            'apa-link-no-norm': Arm(
                'mask_rcnn_se_r18_apa',
                'AGLU',
                'APA without layer norm',
                'Gumbel link',
                options=(f'{GATE}.norm_cfg=None',),
            ),
            'acon': Arm('mask_rcnn_se_r18_acon', 'ACON-C', 'sigmoid', 'Gumbel link'),
            'meta-acon': Arm('mask_rcnn_se_r18_meta-acon', 'Meta-ACON', 'sigmoid', 'Gumbel link'),
            'apalu': Arm('mask_rcnn_se_r18_apalu', 'APALU', 'sigmoid', 'Gumbel link'),
        },
        reference='apa-link',
        seeds=(0, 1, 2),
        data='data/tiny_lvis_1000',
        baseline=Run('relu-link'),
        others=(
            ('apa-link', 'apa-link-pretrained'),
            ('relu-link-pretrained', 'apa-link-pretrained'),
            ('apa-gol-pretrained', 'apa-link-pretrained'),
            ('apa-link', 'apa-link-no-dropout'),
            ('apa-link', 'apa-link-no-norm'),
        ),
    ),
    small_lvis=Study(
        folder='small_lvis',
        arms={
            name: Arm(f'mask_rcnn_se_r18_{config}small-lvis', activation, gate, loss, 'pretrained', options)
            for name, config, activation, gate, loss, options in (
                ('relu-softmax', 'relu_softmax_', 'ReLU', 'sigmoid', 'softmax CE', ()),
                ('relu-seesaw', 'relu_seesaw_', 'ReLU', 'sigmoid', 'Seesaw', ()),
                ('relu-gol', 'relu_gol_', 'ReLU', 'sigmoid', 'GOL', ()),
                ('relu-link', 'relu_gol_', 'ReLU', 'sigmoid', 'Gumbel link', (f'{DROP}=0.0',)),
                ('apa-softmax', 'apa_softmax_', 'AGLU', 'APA', 'softmax CE', ()),
                (
                    'apa-cosine',
                    'apa_softmax_',
                    'AGLU',
                    'APA',
                    'softmax CE, cosine classifier',
                    (f'{PREDICTOR}=NormedLinear',),
                ),
                ('apa-seesaw', 'apa_seesaw_', 'AGLU', 'APA', 'Seesaw', ()),
                ('apa-gol', 'apa_', 'AGLU', 'APA', 'GOL', ()),
                ('apa-link', 'apa_', 'AGLU', 'APA', 'Gumbel link', (f'{DROP}=0.0',)),
                (  # a class starts at p = 6e-4, as with the Gumbel link; from −2, p = 0.12, the first steps diverge
                    'apa-learned',
                    'apa_apa-link_',
                    'AGLU',
                    'APA',
                    'GOL, APA link from λ = 1',
                    (f'{LINK}.lambda_init=1.0', f'{CLASSIFIER_BIAS}=-7.4'),
                ),
                ('apa-learned-gumbel', 'apa_apa-link_', 'AGLU', 'APA', 'GOL, APA link from λ = 0.01', ()),
                ('acon-seesaw', 'acon_seesaw_', 'ACON-C', 'sigmoid', 'Seesaw', ()),
                ('apalu-seesaw', 'apalu_seesaw_', 'APALU', 'sigmoid', 'Seesaw', ()),
            )
        },
        reference='apa-gol',
        seeds=(0, 1, 2, 3, 4),
        data='data/small_lvis',
        baseline=Run('relu-softmax'),
        others=(
            *((f'relu-{loss}', f'apa-{loss}') for loss in ('seesaw', 'gol', 'link')),
            *((f'{name}-gol', f'{name}-link') for name in ('relu', 'apa')),
            *((f'apa-{loss}', f'apa-{loss}+fracal') for loss in ('softmax', 'seesaw', 'gol', 'link')),
            ('apa-softmax+fracal', 'apa-link+fracal'),
            ('apa-link+fracal', 'apa-seesaw+fracal'),
            ('relu-softmax+fracal', 'relu-seesaw+fracal'),
            ('relu-seesaw+fracal', 'apa-seesaw+fracal'),
            ('apa-gol', 'apa-learned'),
            ('apa-gol', 'apa-learned-gumbel'),
            ('apa-softmax', 'apa-cosine'),
            ('apa-cosine', 'apa-seesaw'),
            *(('relu-seesaw', f'{name}-seesaw') for name in ('acon', 'apalu')),
        ),
    ),
    # two arms of small_lvis from backbones that were pretrained once more, with another seed:
    # tools/train.py configs/small_objects/X.py --work-dir work_dirs/X_seed1 --cfg-options randomness.seed=1
    small_lvis_second_pretraining=Study(
        folder='small_lvis',
        arms={
            f'{name}-seesaw': Arm(
                f'mask_rcnn_se_r18_{name}_seesaw_small-lvis',
                activation,
                gate,
                'Seesaw',
                'pretrained',
                (f'{BACKBONE}=work_dirs/se_resnet18_{backbone}_small-objects_seed1/epoch_6.pth',),
            )
            for name, activation, gate, backbone in (
                ('relu', 'ReLU', 'sigmoid', 'relu_sigmoid'),
                ('apa', 'AGLU', 'APA', 'apa'),
            )
        },
        reference='apa-seesaw',
        seeds=(0, 1, 2),
        data='data/small_lvis',
        baseline=Run('relu-seesaw'),
        others=(('relu-seesaw+fracal', 'apa-seesaw+fracal'),),
    ),
    # one factor at a time of the arm apa-link of small_lvis
    small_lvis_factors=Study(
        folder='small_lvis',
        arms={
            name: Arm(
                'mask_rcnn_se_r18_apa_small-lvis',
                'AGLU',
                'APA',
                f'Gumbel link{change}',
                'pretrained',
                (f'{DROP}=0.0', *options),
            )
            for name, change, *options in (
                ('apa-link', ''),
                ('initial-bias', ', initial bias −1 for −2', f'{CLASSIFIER_BIAS}=-1.0'),
                ('lower-bias', ', initial bias −3 for −2', f'{CLASSIFIER_BIAS}=-3.0'),
                ('initial-weights', ', initial weights 0 for 0.001', f'{CLASSIFIER_WEIGHTS}=0.0'),
                ('warm-up', ', warm-up of 250 steps for 50', 'param_scheduler.0.end=250'),
                (
                    'classifier-rate',
                    ', 3 times the rate for the classifier',
                    'optim_wrapper.paramwise_cfg.custom_keys.fc_cls.lr_mult=3.0',
                ),
                ('decay', ', weight decay on λ and κ', 'optim_wrapper.paramwise_cfg.activation_decay_mult=1.0'),
                ('regression', ', boxes by class', 'model.roi_head.bbox_head.reg_class_agnostic=False'),
            )
        },
        reference='apa-link',
        seeds=(0,),
        data='data/small_lvis',
        baseline=Run('apa-link'),
        calibrations=('none',),
    ),
)


def write_shared_weights(study: Study, arm: str, seed: int, path: Path) -> None:
    """Writes the initial weights that an arm shares with the reference; the runner loads them over its own.

    Activations that draw their parameters leave other random numbers to what is built after them, so that equal seeds
    would not be equal weights. Shared are the parameters of equal name and shape, but not the classifier, which each
    loss starts in its way, and not a pretrained backbone.
    """
    set_random_seed(seed)
    reference, own = (initial_weights(study.config(name)) for name in (study.reference, arm))
    left_out = ('roi_head.bbox_head.fc_cls.',)
    if study.arms[arm].weights == 'pretrained':
        left_out += ('backbone.',)
    shared = {
        name: value
        for name, value in reference.items()
        if name in own and own[name].shape == value.shape and not name.startswith(left_out)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=shared), path)


def initial_weights(config: Path) -> dict[str, torch.Tensor]:
    """Draws the weights of a config's model, those of a pretrained backbone too."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    logging.disable()  # a line for each parameter
    model.init_weights()
    logging.disable(logging.NOTSET)
    return model.state_dict()
