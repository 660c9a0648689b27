#!/usr/bin/env python
"""Converts official weights to this package's names, and back; nothing is written unless every one of them fits.
SE-ResNets of MMPretrain and timm are converted as classifiers, only in this direction.

tools/convert_official_weights.py IN OUT                     classification → pretrained backbone
tools/convert_official_weights.py IN OUT --config CONFIG     detector → checkpoint for tools/test.py CONFIG
"""

import sys

from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.utils import cli


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument('source', metavar='IN', help='checkpoint of a classifier or detector')
    parser.add_argument('target', metavar='OUT', help='file to write; its folder is created')
    parser.add_argument('--config', help='of the model to compare with; without it, a backbone is known by its weights')
    parser.add_argument('--to-official', action='store_true', help='from our names to the official ones')
    parser.add_argument('--class-order', metavar='FILE', help='class in the data set of each class of the official')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    return parser.parse_args()


def main():
    args = parse_args()
    print(f'converting {args.source} …', file=sys.stderr)
    try:
        print(convert_file(**vars(args)))
    except WrongWeights as error:
        if error.report:
            print(error.report)
        raise


if __name__ == '__main__':
    cli.run(main)
