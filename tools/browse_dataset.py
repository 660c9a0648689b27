"""Draws a contact sheet of a config's data set as the network gets it: augmented, with boxes, masks and names.

python tools/browse_dataset.py configs/tiny_lvis/mask_rcnn_se_r18_apa.py
DATA_ROOT=path/to/data python tools/browse_dataset.py configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py --split val
"""

from pathlib import Path

from apa_mmdet.utils import cli
from apa_mmdet.utils.config import load_config
from apa_mmdet.visualization.contact_sheet import browse


def parse_args():
    parser = cli.Parser(__doc__, cfg_options=True)
    parser.add_argument('config')
    parser.add_argument('--images', type=cli.at_least(1), default=16, help='number, evenly spread over the data set')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='part of the data')
    parser.add_argument('--out', type=Path, help='(default: work_dirs/browse/CONFIG_SPLIT.png)')
    parser.add_argument('--seed', type=cli.at_least(0, 2**32 - 1), default=0, help='of the augmentation')
    return parser.parse_args()


def main():
    args = parse_args()
    out = args.out or Path(f'work_dirs/browse/{Path(args.config).stem}_{args.split}.png')
    print(browse(load_config(args.config, args.cfg_options), out, args.split, args.images, args.seed))


if __name__ == '__main__':
    cli.run(main)
