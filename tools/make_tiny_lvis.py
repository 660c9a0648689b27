#!/usr/bin/env python
"""Draws a small long-tailed data set in the format of LVIS, COCO or V3Det: 48 classes of colored shapes, in seconds.

    tools/make_tiny_lvis.py [OUT] [--form tiny_lvis] [--train N] [--val N] [--size SIDE] [--seed 0] [--force]

--form writes the same images in the files of lvis_v1, lvis_v0.5, coco or v3det instead, with all classes of these, of
which the first 48 are drawn. A config of one of them then trains on it through a link: ln -s tiny_coco data/coco

--form small_lvis draws 360 classes that look alike, a third of them in 1 to 10 of 4,000 images, in a minute.

--form imagenet draws images to pretrain classifiers on: one object each, as many of every class, in ImageNet's folders;
--form small_objects likewise, of the classes of small_lvis.
"""

from argparse import ArgumentTypeError

from apa_mmdet.datasets.tiny_lvis.formats import FORMATS
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.utils import cli


def _size(text):
    parts = text.lower().split('x')
    if len(parts) > 2 or not all(p.isdecimal() and int(p) >= 64 for p in parts):
        raise ArgumentTypeError(f'{text!r} is not a side, or WIDTHxHEIGHT, of 64 pixels or more')
    return int(parts[0]), int(parts[-1])


def parse_args():
    parser = cli.Parser(__doc__)
    folders = ', '.join(form.folder for form in FORMATS.values())

    def usual(key):
        return ', '.join(str(form.numbers[key]) for form in FORMATS.values())

    parser.add_argument('out', nargs='?', help=f'folder (default, by format: {folders})')
    parser.add_argument('--form', choices=FORMATS, default='tiny_lvis', help='format of the files and classes')
    parser.add_argument('--train', type=cli.at_least(1), help=f'training images (default, by format: {usual("train")})')
    parser.add_argument('--val', type=cli.at_least(1), help=f'validation images (default, by format: {usual("val")})')
    parser.add_argument('--size', type=_size, help=f'side, or WxH, in pixels (default, by format: {usual("size")})')
    parser.add_argument('--seed', type=cli.at_least(0), default=0, help='same seed, same bytes')
    text = 'write even if OUT holds something else; only files of an earlier tiny LVIS are removed'
    parser.add_argument('--force', action='store_true', help=text)
    return parser.parse_args()


def main():
    args = parse_args()
    out = args.out or FORMATS[args.form].folder
    print(make_tiny_lvis(out, args.train, args.val, args.size, args.seed, force=args.force, form=args.form))


if __name__ == '__main__':
    cli.run(main)
