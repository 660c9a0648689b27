"""Draws a sheet of images of a config's data set, as its network gets them: augmented, with boxes, masks and names.

python tools/browse_dataset.py configs/tiny_lvis/mask_rcnn_se_r18_apa.py
DATA_ROOT=path/to/data python tools/browse_dataset.py configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py --split val
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from apa_mmdet.utils.config import load_config, option
from apa_mmdet.utils.missing_data_hints import explain
from apa_mmdet.visualization.contact_sheet import browse


def _images(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 1 or more')
    return int(text)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--images', type=_images, default=16, help='evenly spread over the data set (default: 16)')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, help='(default: work_dirs/browse/CONFIG_SPLIT.png)')
    parser.add_argument('--seed', type=int, default=0, help='another one augments otherwise (default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', type=option, action=DictAction, help='settings of the config, as for training'
    )
    return parser.parse_args()


def main():
    args = parse_args()
    out = args.out or Path(f'work_dirs/browse/{Path(args.config).stem}_{args.split}.png')
    try:
        sheet = browse(load_config(args.config, args.cfg_options), out, args.split, args.images, args.seed)
    except FileNotFoundError as error:
        return f'browse_dataset: {explain(error)}'
    except (OSError, ValueError) as error:
        return f'browse_dataset: {error}'
    except KeyboardInterrupt:
        return 130
    print(sheet)


if __name__ == '__main__':
    sys.exit(main())
