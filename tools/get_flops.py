"""Counts parameters and multiply-adds of configs' models, as in the tables of the model zoo.

Detectors are counted at 800x1280, classifiers at the size that their test crops or resizes to, or at --shape.

python tools/get_flops.py configs/lvis/mask_rcnn_se_r50_apa.py configs/coco/*.py
"""

import logging

from apa_mmdet.apis.get_flops import get_flops
from apa_mmdet.utils import cli
from apa_mmdet.utils.config import load_config


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument('configs', nargs='+')
    text = 'of the image, in pixels'
    parser.add_argument('--shape', nargs=2, type=cli.at_least(1), metavar=('HEIGHT', 'WIDTH'), help=text)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # MMEngine lists every operator that it does not count
    for path in args.configs:
        print(f'{path}: {get_flops(load_config(path), args.shape and tuple(args.shape))}', flush=True)


if __name__ == '__main__':
    cli.run(main)
