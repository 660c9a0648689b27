#!/usr/bin/env python
"""Converts published weights to this package's names, and back; nothing is written unless every one of them fits.

tools/convert_official_weights.py IN OUT                     classification → pretrained backbone
tools/convert_official_weights.py IN OUT --config CONFIG     detector → checkpoint for tools/test.py CONFIG
"""

import argparse
import sys

from apa_mmdet.apis.convert_weights import convert_file


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IN', help='checkpoint of a classifier or detector')
    parser.add_argument('target', metavar='OUT', help='where to write; its folder is made')
    parser.add_argument('--config', help='whose model to compare with; without it, a backbone is told from its weights')
    parser.add_argument('--to-official', action='store_true', help='from our names to the published ones')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    return parser.parse_args()


def main():
    args = parse_args()
    print(f'converting {args.source} …', file=sys.stderr)
    try:
        print(convert_file(**vars(args)))
    except (OSError, ValueError, MemoryError) as error:
        if getattr(error, 'report', ''):
            print(error.report)
        return f'convert_official_weights: {error}'


if __name__ == '__main__':
    sys.exit(main())
