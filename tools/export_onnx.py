"""A detector, or its backbone and neck, as an ONNX file; checked in onnxruntime against PyTorch. See docs/deploy.md.

python tools/export_onnx.py CONFIG CHECKPOINT                       backbone and neck: image → maps p2, p3, …
python tools/export_onnx.py CONFIG CHECKPOINT --part detector       image → boxes, scores, labels and masks
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from apa_mmdet.utils.config import option
from apa_mmdet.utils.missing_data_hints import explain

try:
    from apa_mmdet.deploy.export_onnx import EXPORTERS, OPSETS, PARTS, export_onnx
    from apa_mmdet.deploy.verify import TOLERANCE
except ModuleNotFoundError as missing:
    sys.exit(f'export_onnx: {missing.name} is not installed; pip install onnx onnxruntime')


def _side(text):
    if not text.isdecimal() or not 32 <= int(text) <= 8192:
        raise argparse.ArgumentTypeError(f'{text!r} is no height or width of 32 to 8192 pixels')
    return int(text)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='(default: random weights, to try the export out)')
    parser.add_argument('--out', help='(default: work_dirs/onnx/<config>_<part>.onnx)')
    parser.add_argument('--part', choices=PARTS, default='backbone', help='(default: %(default)s, with the neck)')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=_side,
        default=(800, 1344),
        metavar=('HEIGHT', 'WIDTH'),
        help='pixels of the images that it is recorded and checked with (default: 800 1344)',
    )
    parser.add_argument(
        '--dynamic',
        nargs='*',
        choices=('batch', 'size'),
        help='what may differ from that later on (default: all that the part allows; give none for a fixed shape)',
    )
    parser.add_argument(
        '--opset', type=int, choices=range(OPSETS[0], OPSETS[1] + 1), default=OPSETS[0], help='(default: %(default)s)'
    )
    parser.add_argument('--exporter', choices=EXPORTERS, default=EXPORTERS[0], help='(default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', type=option, action=DictAction, help='settings of the config, as for training'
    )
    return parser.parse_args()


def main():
    args = parse_args()
    out = args.out or f'work_dirs/onnx/{Path(args.config).stem}_{args.part}.onnx'
    try:
        done = export_onnx(
            args.config,
            args.checkpoint,
            out,
            args.part,
            tuple(args.shape),
            args.dynamic,
            args.opset,
            args.exporter,
            args.cfg_options,
        )
    except FileNotFoundError as error:
        return f'export_onnx: {explain(error)}'
    except (OSError, ValueError) as error:
        return f'export_onnx: {error}'
    except KeyboardInterrupt:
        return 130
    for images, found in done.differences.items():
        print(f'onnxruntime against PyTorch, images {"x".join(map(str, images))} (allowed: {TOLERANCE:g} relative)')
        print('\n'.join(map(str, found)))
    print(
        f'written: {done.path}, {done.path.stat().st_size / 1e6:.1f} MB, opset {done.opset}; '
        f'{", ".join(done.inputs)} → {", ".join(done.outputs)}'
    )


if __name__ == '__main__':
    sys.exit(main())
