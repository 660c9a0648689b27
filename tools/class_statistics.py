"""Measures images, instances and fractal dimension of each class of an annotation file, for calibration.

python tools/class_statistics.py data/lvis_v1/annotations/lvis_v1_train.json class_statistics.json

FRACAL and IIF read OUT, or the annotation file itself, which they measure once; docs/calibration.md.
"""

from apa_mmdet.apis.class_statistics import write_class_statistics
from apa_mmdet.utils import cli


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument('input', metavar='IN', help='annotations of the training, of COCO, LVIS or V3Det')
    parser.add_argument('output', metavar='OUT', help='where the statistics go')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    args = parser.parse_args()
    print(write_class_statistics(args.input, args.output, args.force))


if __name__ == '__main__':
    cli.run(main)
