"""What came out of a run, for a person: a table and a picture."""

import json
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmdet.apis import init_detector
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from terminaltables import AsciiTable

SIDE = 480  # pixels; smaller pictures are enlarged to it, or names would not be legible


def report(work_dir: str, images: int = 8, score_thr: float = 0.5) -> str:
    """Draw ``predictions.png`` into ``work_dir`` and return the closing words of a run.

    Args:
        work_dir: folder of a run of ``tools/train.py`` and ``tools/test.py``.
        images: number of test images in the picture, evenly spread over the test set.
        score_thr: lowest score of a prediction that is drawn.

    Raises:
        FileNotFoundError: if the folder holds no test result.
    """
    result = last_test(Path(work_dir))
    cfg = Config.fromfile(result.parent / 'vis_data' / 'config.py')
    picture = Path(work_dir) / 'predictions.png'
    draw_predictions(cfg, cfg.load_from, picture, images, score_thr)
    return '\n'.join(
        [
            metric_table(json.loads(result.read_text())),
            f'checkpoint  {cfg.load_from}',
            f'picture     {picture}',
            f'next        every test image: python tools/test.py CONFIG {cfg.load_from} --show-dir pictures',
            '            your own pictures: configs/own_data; LVIS: configs/lvis; both in the README',
        ]
    )


def last_test(folder: Path) -> Path:
    """The metrics that the latest ``tools/test.py`` of a work dir wrote: ``<time>/<time>.json``."""
    results = sorted(p for p in folder.glob('*/*.json') if p.stem == p.parent.name)
    if not results:
        raise FileNotFoundError(f'{folder}: no test result; run tools/train.py, then tools/test.py, with this work dir')
    return results[-1]


def metric_table(metrics: dict[str, float]) -> str:
    """Average precisions as a table, a row for boxes and one for masks.

    Example:
        >>> print(metric_table({'lvis/bbox_AP': 0.3, 'lvis/bbox_APr': 0.2, 'lvis/segm_AP': 0.25, 'lvis/segm_APr': -1.}))
        +------+-------+-------+
        |      | AP    | APr   |
        +------+-------+-------+
        | box  | 0.300 | 0.200 |
        | mask | 0.250 | -     |
        +------+-------+-------+
    """
    values = {key.split('/')[-1]: value for key, value in metrics.items()}
    columns = [c for c in ('AP', 'APr', 'APc', 'APf', 'mAP', 'mAP_50', 'mAP_75') if f'bbox_{c}' in values]
    rows = [
        [name] + [_cell(values[f'{kind}_{c}']) for c in columns]
        for name, kind in (('box', 'bbox'), ('mask', 'segm'))
        if any(k.startswith(kind) for k in values)
    ]
    return AsciiTable([['', *columns], *rows]).table


def _cell(value: float) -> str:
    return f'{value:.3f}' if value >= 0 else '-'  # LVIS says −1 where there is nothing to average


def draw_predictions(cfg: Config, checkpoint: str, out: Path, images: int, score_thr: float) -> None:
    """Test images with ground truth (left) and predictions (right), two a row, written to ``out``."""
    model = init_detector(cfg, checkpoint, device=get_device())
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name='report', alpha=0.4))
    visualizer.dataset_meta = dataset.metainfo
    pairs = []
    for index in np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int):
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[int(index)]]))[0].cpu()
        pairs.append(_draw(visualizer, sample, score_thr))
    mmcv.imwrite(_grid(pairs), str(out))


def _draw(visualizer, sample: DetDataSample, score_thr: float) -> np.ndarray:
    """One image twice, ground truth and predictions; BGR."""
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    factor = max(1.0, SIDE / max(image.shape[:2]))
    image = mmcv.imrescale(image, factor, interpolation='bicubic')
    for instances in (sample.gt_instances, sample.pred_instances):
        instances.bboxes = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes)) * factor
        if 'masks' in instances:
            instances.masks = _resize(instances.masks, image.shape[:2])
    visualizer.add_datasample('', image, sample, pred_score_thr=score_thr)
    return visualizer.get_image()[..., ::-1]


def _resize(masks, shape: tuple[int, int]) -> torch.Tensor:
    masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks.numpy()  # ground truth; predictions
    resized = [cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) for mask in masks]
    return torch.from_numpy(np.array(resized, bool).reshape(-1, *shape))


def _grid(pairs: list[np.ndarray], columns: int = 2, gap: int = 12) -> np.ndarray:
    height, width = (max(p.shape[i] for p in pairs) + gap for i in (0, 1))
    rows = -(-len(pairs) // columns)
    sheet = np.full((rows * height + gap, min(columns, len(pairs)) * width + gap, 3), 255, np.uint8)
    for i, pair in enumerate(pairs):
        top, left = i // columns * height + gap, i % columns * width + gap
        sheet[top : top + pair.shape[0], left : left + pair.shape[1]] = pair
    return sheet
