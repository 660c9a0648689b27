"""MMDetection's DetInferencer, with weights that have to fit."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import InstanceData
from torch import nn

from apa_mmdet.checkpoint.class_names import recorded_classes
from apa_mmdet.checkpoint.loading import load_whole
from apa_mmdet.checkpoint.scheme import data_only
from apa_mmdet.datasets.image_loader_step import image_loader_step
from apa_mmdet.models.calibration import name_classes
from apa_mmdet.structures.best_class import best_class_of_each_object
from apa_mmdet.utils.config import BadConfig, class_counts, is_classifier, leaves, load_config
from apa_mmdet.utils.errors import CodedError, in_one_line
from apa_mmdet.utils.fileio import atomic_write
from apa_mmdet.visualization.images import read_rgb
from apa_mmdet.visualization.local_visualizer import draw, make_visualizer

from .inference_loading import AnyImageLoader

COLOR_EXTENSIONS = tuple(set(IMG_EXTENSIONS) - {'.pgm'})


class StrictDetInferencer(DetInferencer):
    """MMDetection's DetInferencer, which accepts neither random weights nor class names of another data set.

    Where weights and model differ, MMDetection's logs it and detects with what is random; where a checkpoint has no
    class names, as converted ones, it uses those of COCO. Here the weights have to fit, and the names are those of the
    checkpoint or else of the config's test data set. Predictions carry them as ``label_names``. With ``out_dir``, files
    are named by the image's path below ``root``, so that images of one name do not replace each other.

    Each object is given as its best class: of detections whose boxes are nearly equal, that with the highest score.
    With ``all_classes=True`` all of them are given, as average precision counts them.

    Args:
        config: path of the detector's config, or the config.
        checkpoint: its path or URL; it is read as data.
        device: e.g. ``cpu`` or ``cuda:1``; the default is the GPU if there is one.

    Raises:
        FileNotFoundError: if the checkpoint does not exist, or neither it nor the config has the class names.
        BadCheckpoint: if the checkpoint is damaged, holds no weights or would run code.
        BadConfig: if the config is not that of a detector.
        WrongWeights: if the weights do not fit the model.
        CodedError: ``class-count``, if the class names do not fit the model; ``no-device``, if there is no such one.

    Example::

        inferencer = StrictDetInferencer('configs/tiny_lvis/mask_rcnn_se_r18_apa.py', 'epoch_5.pth')
        found = inferencer.detect('photo.jpg', score_thr=0.3)
        print(found.label_names, found.scores, found.bboxes, found.masks)

    or with all arguments and results of ``DetInferencer``: ``inferencer('photo.jpg', out_dir='outputs')``.
    """

    forward_kwargs: set = {'score_thr', 'all_classes'}
    root: Path | None = None

    def __init__(self, config: str | os.PathLike | Config, checkpoint: str | os.PathLike, device: str | None = None):
        cfg = config if isinstance(config, Config) else load_config(os.fspath(config))
        name = cfg.filename or 'the config'
        if is_classifier(cfg):
            raise BadConfig('no-detector', f"{name} is the config of a classifier; MMPretrain's inferencers take it")
        if 'model' not in cfg or not cfg.get('test_dataloader'):
            raise BadConfig('no-detector', f'{name} is not the config of a detector: no model or no test_dataloader')
        if device is not None:
            _check_device(device)
        self._names = os.fspath(checkpoint), name
        super().__init__(cfg, data_only(checkpoint), device, show_progress=False)

    def detect(
        self, image: str | os.PathLike | np.ndarray, score_thr: float = 0.3, all_classes: bool = False
    ) -> InstanceData:
        """Detects the objects of one image, in falling order of scores.

        Args:
            image: path, or height x width x 3, BGR, 0 to 255; of other channels where the detector was trained on them.
            score_thr: lowest score.
            all_classes: give an object as every class that it is detected as, not only as the best.

        Returns:
            N objects: ``bboxes`` (N x 4, left, top, right, bottom in pixels of the image), ``scores`` (N), ``labels``
            (N), ``label_names`` (N texts) and, from a detector of masks, ``masks`` (N x height x width, bool).
        """
        image = image if isinstance(image, np.ndarray) else os.fspath(image)
        return self(image, return_datasamples=True, score_thr=score_thr, all_classes=all_classes)['predictions'][
            0
        ].pred_instances

    def forward(self, inputs: Any, score_thr: float | None = None, all_classes: bool = False) -> list[DetDataSample]:
        """Predicts; with ``score_thr``, the objects of this score or more in falling order."""
        samples = [sample.cpu() for sample in super().forward(inputs)]
        for sample in samples:
            instances = sample.pred_instances
            if score_thr is not None:
                instances = instances[instances.scores >= score_thr]
                instances = instances[instances.scores.argsort(descending=True, stable=True)]
            if not all_classes:
                instances = best_class_of_each_object(instances)
            instances.label_names = [self.model.dataset_meta['classes'][label] for label in instances.labels]
            sample.pred_instances = instances
        return samples

    def visualize(
        self, inputs: Sequence, preds: Sequence, no_save_vis: bool = False, img_out_dir: str = '', **kwargs
    ) -> list[np.ndarray] | None:
        """Writes ``img_out_dir/vis/NAME`` for paths, enlarged or reduced to be legible; the rest as the base class."""
        if no_save_vis or not img_out_dir or not all(isinstance(image, str) for image in inputs):
            return super().visualize(inputs, preds, no_save_vis=no_save_vis, img_out_dir=img_out_dir, **kwargs)
        for path, sample in zip(inputs, preds):
            image = read_rgb(path)
            threshold = kwargs.get('pred_score_thr', 0.3)
            image = draw(self.visualizer, image, sample, draw_gt=False, pred_score_thr=threshold)
            name = self._name(path)
            if Path(name).suffix.lower() not in COLOR_EXTENSIONS:
                name += '.png'
            mmcv.imwrite(image, str(Path(img_out_dir) / 'vis' / name))
        return None

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = '') -> dict:
        """Returns the objects of an image for JSON, and writes them to ``pred_out_dir/preds/NAME.json``."""
        if 'img_path' not in data_sample:
            return super().pred2dict(data_sample, pred_out_dir)
        name = self._name(data_sample.img_path)
        height, width = data_sample.ori_shape
        objects = dict(label_names=data_sample.pred_instances.label_names, **super().pred2dict(data_sample))
        result = dict(image=name, height=height, width=width, **objects)
        if pred_out_dir:
            path = Path(pred_out_dir) / 'preds' / f'{name}.json'
            atomic_write(path, json.dumps(result, ensure_ascii=False).encode())
        return result

    def _name(self, path: str) -> str:
        file = Path(path)
        return file.relative_to(self.root).as_posix() if self.root in file.parents else file.name

    def _init_visualizer(self, cfg: Config) -> DetLocalVisualizer:
        # the config's warns that it has no folder; what is given to it has been chosen by forward()
        return make_visualizer(self.model.dataset_meta['classes'], same_object_iou=None)

    def _init_pipeline(self, cfg: Config) -> Compose:
        """Builds the test pipeline; other than the base class's it may begin with any loader, as of many channels."""
        pipeline = [dict(step) for step in next(leaves(cfg.test_dataloader.dataset)).get('pipeline') or []]
        loader = image_loader_step(pipeline)
        if loader is None:
            raise BadConfig('no-image-loader', f'{cfg.filename or "the config"}: its test pipeline loads no image')
        if 'meta_keys' in pipeline[-1]:
            pipeline[-1]['meta_keys'] = tuple(key for key in pipeline[-1]['meta_keys'] if key != 'img_id')
        with in_one_line('not-buildable', f'{self._names[1]}: its test pipeline cannot be built'):
            return Compose([AnyImageLoader(loader), *pipeline[pipeline.index(loader) + 1 :]])

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # the base class finds the same one, with a warning

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict, cfg: Config) -> None:
        load_whole(model, checkpoint, *self._names)
        names = class_names(cfg, checkpoint.get('meta'))
        model.dataset_meta = dict(classes=names, palette='random')
        name_classes(model, names)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        line = f'no device {device} here ({str(error).splitlines()[0][:100]}); cpu is always there'
        raise CodedError('no-device', line) from None


def class_names(cfg: Config, meta: Any = None) -> tuple[str, ...]:
    """Returns the names of a detector's classes: the checkpoint's, or else those of the config's test data set.

    Args:
        cfg: the detector's config.
        meta: ``meta`` of the checkpoint, whatever it is.

    Raises:
        FileNotFoundError: if the config's data set reads them from a file that does not exist.
        CodedError: ``class-count``, if there are not as many as the model has classes; ``not-buildable``, if the data
            set cannot say them.
    """
    numbers = {found.number for found in class_counts(cfg.model) if found.is_used}
    counts = []
    for names in _known_names(cfg, meta):
        if not numbers or numbers == {len(names)}:
            return tuple(map(str, names))
        counts.append(len(names))
    raise CodedError(
        'class-count',
        f'the model has {" or ".join(map(str, sorted(numbers)))} classes, but there are names for '
        f'{" or ".join(map(str, counts)) or "none"}; name them in the config: '
        'test_dataloader=dict(dataset=dict(metainfo=dict(classes=(…))))',
    )


def _known_names(cfg: Config, meta: Any) -> Iterator[Sequence[str]]:
    names = recorded_classes(meta)
    if names is not None:
        yield names
    for leaf in leaves(cfg.test_dataloader.dataset):
        # only what the data set's class and its metainfo say: annotations are not read
        name = cfg.filename or 'the config'
        with in_one_line('not-buildable', f'{name}: its test data set cannot be built', keep=FileNotFoundError):
            names = DATASETS.build(dict(leaf, lazy_init=True, pipeline=[])).metainfo.get('classes')
        if names:
            yield names
