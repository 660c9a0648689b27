#!/usr/bin/env python
"""Validates a config before training: annotations, images, categories, class names, and settings that do not fit.

    tools/check_dataset.py CONFIG [--split train val] [--no-images] [--cfg-options KEY=VALUE ...]

Ends with 0 if training can start, with 1 if it cannot. Each finding ends with its code;
docs/dataset_prepare.md lists the codes.
"""

import os

from apa_mmdet.apis.validate_annotations import check_config
from apa_mmdet.datasets.validation.validate_config import SPLITS
from apa_mmdet.utils import cli


def parse_args():
    parser = cli.Parser(__doc__, cfg_options=True)
    parser.add_argument('config')
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=SPLITS, help='the parts to validate')
    parser.add_argument('--no-images', action='store_true', help='check that images exist, but do not open them')
    workers = min(8, os.cpu_count() or 1)
    parser.add_argument('--workers', type=cli.at_least(0), default=workers, help='processes that read images')
    return parser.parse_args()


def main():
    args = parse_args()
    report = check_config(args.config, args.cfg_options, args.split, not args.no_images, args.workers)
    print(report)
    return int(report.errors > 0)


if __name__ == '__main__':
    cli.run(main)
