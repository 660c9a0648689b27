"""Reports a run: a table of its metrics, images of its predictions, its training curves."""

import json
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable
from tqdm import tqdm

from apa_mmdet.checkpoint.loading import load_file
from apa_mmdet.checkpoint.scheme import local_path
from apa_mmdet.checkpoint.work_dir import in_folder
from apa_mmdet.models.calibration import name_classes
from apa_mmdet.utils.config import build_detector, load_config
from apa_mmdet.utils.errors import CodedError, in_one_line
from apa_mmdet.visualization.class_precisions import draw_class_precisions
from apa_mmdet.visualization.grid import grid
from apa_mmdet.visualization.images import read_rgb
from apa_mmdet.visualization.local_visualizer import draw, make_visualizer
from apa_mmdet.visualization.training_curves import COLUMNS, draw_training_curves, precisions


def report(work_dir: str, images: int = 8, score_thr: float = 0.5) -> str:
    """Writes ``predictions.png`` and ``training_curves.png`` to ``work_dir`` and returns a summary of the run.

    If FastCocoMetric wrote a table of the classes, AP over the frequency of a class is drawn in ``classes.png``.

    Args:
        work_dir: folder of a run of ``tools/train.py`` and ``tools/test.py``.
        images: number of test images that are drawn, evenly spread over the test set.
        score_thr: lowest score of a prediction that is drawn.

    Raises:
        FileNotFoundError: if the folder has no test result.
        CodedError: ``no-checkpoint``, if that test had none; ``unreadable-metrics`` or ``unreadable-dataset``.
    """
    result = last_test(Path(work_dir))
    with in_one_line('unreadable-metrics', f'{result} cannot be read', keep=OSError):
        metrics = metric_table(json.loads(result.read_text()))
    cfg = load_config(result.parent / 'vis_data' / 'config.py')
    if not cfg.get('load_from'):
        line = f'{result.parent}: this test had no checkpoint; run tools/test.py again with one'
        raise CodedError('no-checkpoint', line)
    file = local_path(cfg.load_from)
    moved = file is not None and not Path(file).exists()
    checkpoint = in_folder(cfg.load_from, work_dir) if moved else cfg.load_from
    image = Path(work_dir) / 'predictions.png'
    curves = draw_training_curves(Path(work_dir), Path(work_dir) / 'training_curves.png')
    classes = draw_class_precisions(result.parent, Path(work_dir) / 'classes.png')
    draw_predictions(cfg, checkpoint, image, images, score_thr)
    by_class = f'classes     {classes}\n' if classes else ''
    return (
        f'{metrics}\n'
        f'checkpoint  {checkpoint}\n'
        f'predictions {image}\n'
        f'curves      {curves or "none: this folder has no log of a training run"}\n'
        f'{by_class}'
        f'next        every test image: python tools/test.py CONFIG {checkpoint} --show-dir images\n'
        f'            other images:     python tools/image_demo.py IMAGE_OR_FOLDER CONFIG {checkpoint}\n'
        '            your own data:    configs/custom_dataset; LVIS: configs/lvis; both in the README'
    )


def last_test(folder: Path) -> Path:
    """Finds the metrics that the latest ``tools/test.py`` of a work dir wrote: ``<time>/<time>.json``."""
    results = sorted(p for p in folder.glob('*/*.json') if p.stem == p.parent.name)
    if not results:
        raise FileNotFoundError(f'{folder}: no test result; run tools/train.py, then tools/test.py, with this work dir')
    return results[-1]


def metric_table(metrics: dict[str, float]) -> str:
    """Formats average precisions as a table with a row for boxes and one for masks.

    Example:
        >>> print(metric_table({'lvis/bbox_AP': 0.3, 'lvis/bbox_APr': 0.2, 'lvis/segm_AP': 0.25, 'lvis/segm_APr': -1.}))
        +------+-------+-------+
        |      | AP    | APr   |
        +------+-------+-------+
        | box  | 0.300 | 0.200 |
        | mask | 0.250 | -     |
        +------+-------+-------+
    """
    tables = precisions(metrics)
    columns = [column for column in COLUMNS if any(column in table for table in tables.values())]
    cells = {kind: [table.get(column, -1) for column in columns] for kind, table in tables.items()}
    # −1 or NaN where there is nothing to average
    rows = [[kind, *(f'{x:.3f}' if x >= 0 else '-' for x in values)] for kind, values in cells.items()]
    return AsciiTable([['', *columns], *rows]).table


def draw_predictions(cfg: Config, checkpoint: str, out: Path, images: int, score_thr: float) -> None:
    """Writes test images with ground truth (left) and predictions (right), two a row, to ``out``."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')  # transforms of its data set are found by it
    model = build_detector(cfg, 'the config')
    load_file(model, checkpoint)
    model = model.to(get_device()).eval()
    with in_one_line('unreadable-dataset', 'the data set of the test cannot be read', keep=FileNotFoundError):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    name_classes(model, dataset.metainfo['classes'])
    visualizer = make_visualizer(dataset.metainfo['classes'], dataset.metainfo.get('palette'))
    pairs = []
    indices = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    for index in tqdm(indices, unit='image'):
        with in_one_line('unreadable-sample', f'image {index} of the test cannot be loaded', keep=FileNotFoundError):
            data = pseudo_collate([dataset[index]])
        with torch.no_grad():
            sample = model.test_step(data)[0].cpu()
        pairs.append(draw(visualizer, read_rgb(sample.img_path), sample, pred_score_thr=score_thr))
    mmcv.imwrite(grid(pairs), str(out))
