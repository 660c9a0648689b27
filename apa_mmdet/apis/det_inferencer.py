"""Detection on pictures without annotations: MMDetection's DetInferencer, with weights that have to fit."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import nn

from apa_mmdet.checkpoint.compare import check_fit
from apa_mmdet.checkpoint.io import find_weights
from apa_mmdet.checkpoint.scheme import data_only
from apa_mmdet.utils.config import BadConfig, leaves, load_config, model_parts
from apa_mmdet.visualization.local_visualizer import make_visualizer


class StrictDetInferencer(DetInferencer):
    """MMDetection's DetInferencer, which goes on neither with random weights nor with COCO's names.

    Where weights and model differ, the former logs it and detects with what is random; where a checkpoint says nothing
    of its classes, as converted ones do, it calls them by the names of COCO. Here the weights have to fit, and the
    names are those of the checkpoint or else of the config's test data set. Predictions carry them as ``label_names``.

    Args:
        config: path of the detector's config, or the config.
        checkpoint: its path or URL; it is read as data alone.
        device: e.g. ``cpu`` or ``cuda:1``; the default is the GPU if there is one.

    Raises:
        FileNotFoundError: if the checkpoint is not there, or neither it nor the config has the names.
        BadCheckpoint: if the checkpoint is damaged, holds no weights or would run code.
        ValueError: if the config, the weights or the names do not fit each other, or the device is none.

    Example::

        inferencer = StrictDetInferencer('configs/tiny_lvis/mask_rcnn_se_r18_apa.py', 'epoch_5.pth')
        found = inferencer.detect('photo.jpg', score_thr=0.3)
        print(found.label_names, found.scores, found.bboxes, found.masks)

    or with all arguments and results of ``DetInferencer``: ``inferencer('photo.jpg', out_dir='outputs')``.
    """

    def __init__(self, config: str | os.PathLike | Config, checkpoint: str | os.PathLike, device: str | None = None):
        cfg = config if isinstance(config, Config) else load_config(os.fspath(config))
        name = cfg.filename or 'the config'
        if 'model' not in cfg or not cfg.get('test_dataloader'):
            raise BadConfig('no-detector', f'{name} is not the config of a detector: no model or no test_dataloader')
        if device is not None:
            _check_device(device)
        self._names = os.fspath(checkpoint), name
        super().__init__(cfg, data_only(checkpoint), device, show_progress=False)

    def detect(self, image: str | os.PathLike | np.ndarray, score_thr: float = 0.3) -> InstanceData:
        """What is on one image, in falling order of scores.

        Args:
            image: path, or height x width x 3, BGR, 0 to 255.
            score_thr: lowest score.

        Returns:
            N objects: ``bboxes`` (N x 4, left, top, right, bottom in pixels of the image), ``scores`` (N), ``labels``
            (N), ``label_names`` (N texts) and, from a detector of masks, ``masks`` (N x height x width, bool).
        """
        image = image if isinstance(image, np.ndarray) else os.fspath(image)
        return above(self(image, return_datasamples=True)['predictions'][0], score_thr).pred_instances

    def forward(self, inputs: Any, **kwargs: Any) -> list[DetDataSample]:
        samples = [sample.cpu() for sample in super().forward(inputs, **kwargs)]
        for instances in (sample.pred_instances for sample in samples):
            instances.label_names = [self.model.dataset_meta['classes'][label] for label in instances.labels]
        return samples

    def _init_visualizer(self, cfg: Config) -> DetLocalVisualizer:
        return make_visualizer(self.model.dataset_meta['classes'])  # the config's warns that it has no folder

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # the stock lookup finds the same one, with a warning

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict, cfg: Config) -> None:
        path, config = self._names
        weights, _ = find_weights(checkpoint, path)
        check_fit(weights, model.state_dict(), path, config)
        model.load_state_dict(weights, strict=False)  # but for old norms' num_batches_tracked, nothing is missing
        model.dataset_meta = dict(classes=class_names(cfg, checkpoint.get('meta')), palette='random')


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'no device {device} here ({str(error).splitlines()[0][:100]}); cpu is always there') from None


def above(sample: DetDataSample, score_thr: float) -> DetDataSample:
    """The sample with its predictions of this score or more, in falling order."""
    instances = sample.pred_instances
    instances = instances[instances.scores >= score_thr]
    sample.pred_instances = instances[instances.scores.argsort(descending=True, stable=True)]
    return sample


def class_names(cfg: Config, meta: Any = None) -> tuple[str, ...]:
    """The names of a detector's classes: the checkpoint's, or else those of the config's test data set.

    Args:
        cfg: the detector's config.
        meta: ``meta`` of the checkpoint, whatever it is.

    Raises:
        FileNotFoundError: if the config's data set reads them from a file that is not there.
        ValueError: if there are not as many as the model has classes.
    """
    numbers = {
        part['num_classes']
        for _, part in model_parts(cfg.model)
        if isinstance(part.get('num_classes'), int) and not part.get('class_agnostic')
    }
    counts = []
    for names in _known_names(cfg, meta):
        if not numbers or numbers == {len(names)}:
            return tuple(map(str, names))
        counts.append(len(names))
    raise ValueError(
        f'the model has {" or ".join(map(str, sorted(numbers)))} classes, but names are there for '
        f'{" or ".join(map(str, counts)) or "none"}; name them in the config: '
        'test_dataloader=dict(dataset=dict(metainfo=dict(classes=(…))))'
    )


def _known_names(cfg: Config, meta: Any) -> Iterator[Sequence[str]]:
    known = meta.get('dataset_meta', meta) if isinstance(meta, dict) else None
    if isinstance(known, dict):
        names = {str(key).lower(): value for key, value in known.items()}.get('classes')  # before mmdet 3, CLASSES
        if isinstance(names, (list, tuple)):
            yield names
    for leaf in leaves(cfg.test_dataloader.dataset):
        # only what the data set's class and its metainfo say: annotations are not read
        names = DATASETS.build(dict(leaf, lazy_init=True, pipeline=[])).metainfo.get('classes')
        if names:
            yield names
