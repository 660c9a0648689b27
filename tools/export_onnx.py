"""Exports a detector, or its backbone and neck, to ONNX and checks it in onnxruntime. See docs/deploy.md.

python tools/export_onnx.py CONFIG CHECKPOINT                       backbone and neck: image → maps p2, p3, …
python tools/export_onnx.py CONFIG CHECKPOINT --part detector       image → boxes, scores, labels and masks
"""

import argparse
import sys
from pathlib import Path

from apa_mmdet.utils import cli

try:
    from apa_mmdet.deploy.export_onnx import EXPORTERS, OPSETS, PARTS, export_onnx
except ModuleNotFoundError as missing:
    sys.exit(f'export_onnx: {missing.name} is not installed; pip install onnx onnxruntime')


def _side(text):
    if not text.isdecimal() or not 32 <= int(text) <= 8192:
        raise argparse.ArgumentTypeError(f'{text!r} is not a height or width of 32 to 8192 pixels')
    return int(text)


def parse_args():
    parser = cli.Parser(__doc__, cfg_options=True)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='(default: random weights, to try the export)')
    parser.add_argument('--out', help='(default: work_dirs/onnx/<config>_<part>.onnx)')
    parser.add_argument('--part', choices=PARTS, default='backbone', help='backbone includes the neck')
    text = 'height and width of the images for recording and checking, in pixels'
    parser.add_argument('--shape', nargs=2, type=_side, default=(800, 1344), metavar=('HEIGHT', 'WIDTH'), help=text)
    text = 'what may vary later (default: all that the part allows; without a value, nothing)'
    parser.add_argument('--dynamic', nargs='*', choices=('batch', 'size'), help=text)
    opsets = range(OPSETS[0], OPSETS[1] + 1)
    parser.add_argument('--opset', type=int, choices=opsets, default=OPSETS[0], help="version of ONNX's operators")
    parser.add_argument('--exporter', choices=EXPORTERS, default=EXPORTERS[0], help='of torch')
    args = parser.parse_args()
    args.out = args.out or f'work_dirs/onnx/{Path(args.config).stem}_{args.part}.onnx'
    return args


def main():
    print(export_onnx(**vars(parse_args())))


if __name__ == '__main__':
    cli.run(main)
