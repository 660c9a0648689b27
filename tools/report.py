"""What came out of a run: a table of its last test, its predictions beside the ground truth, and how training went.

python tools/report.py work_dirs/mask_rcnn_se_r18_apa

The pictures, predictions.png and training_curves.png, lie in that folder afterwards.
"""

import argparse
import sys

from apa_mmdet.apis.report import report
from apa_mmdet.utils.missing_data_hints import explain


def _images(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 1 or more')
    return int(text)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='folder of a run that was trained and tested')
    parser.add_argument('--images', type=_images, default=8, help='test images in the picture (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.5, help='lowest score drawn (default: %(default)s)')
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        print(report(args.work_dir, args.images, args.score_thr))
    except FileNotFoundError as error:
        return f'report: {explain(error)}'
    except (OSError, ValueError) as error:
        return f'report: {error}'


if __name__ == '__main__':
    sys.exit(main())
