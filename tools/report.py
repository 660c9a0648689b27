"""What came out of a run: a table of its last test, and a picture of its predictions beside the ground truth.

python tools/report.py work_dirs/mask_rcnn_se_r18_apa
"""

import argparse

from apa_mmdet.engine.report import report

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='folder of a run that was trained and tested')
    parser.add_argument('--images', type=int, default=8, help='test images in the picture (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.5, help='lowest score drawn (default: %(default)s)')
    arguments = parser.parse_args()
    print(report(arguments.work_dir, arguments.images, arguments.score_thr))
