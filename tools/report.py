"""Reports a run: a table of its last test, its predictions beside the ground truth, and its training curves.

python tools/report.py work_dirs/mask_rcnn_se_r18_apa_seesaw

The images, predictions.png and training_curves.png, are written to that folder.
"""

from apa_mmdet.apis.report import report
from apa_mmdet.utils import cli


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument('work_dir', help='folder of a run that was trained and tested')
    parser.add_argument('--images', type=cli.at_least(1), default=8, help='test images in predictions.png')
    parser.add_argument('--score-thr', type=float, default=0.5, help='lowest score drawn')
    print(report(**vars(parser.parse_args())))


if __name__ == '__main__':
    cli.run(main)
