"""Detects objects in an image, or in all images of a folder and its sub-folders.

python tools/image_demo.py photo.jpg CONFIG CHECKPOINT
python tools/image_demo.py photos CONFIG CHECKPOINT --out-dir found --batch-size 4 --score-thr 0.5

OUT_DIR/vis/NAME        the image with boxes, masks, class names and scores in per cent; small ones are enlarged,
                        very large ones reduced
OUT_DIR/preds/NAME.json {"image", "height", "width", and one entry per object in falling order of scores:
                        "label_names", "labels" (number of the class, from 0), "scores",
                        "bboxes" ([left, top, right, bottom] in pixels of the image),
                        "masks" (COCO's run-length code, for pycocotools.mask.decode)}

Both hold the objects of score SCORE_THR or more; NAME is the image's path in the folder.
"""

import argparse
import sys

import torch

from apa_mmdet.apis.det_inferencer import StrictDetInferencer
from apa_mmdet.apis.inference_folder import detect_folder
from apa_mmdet.utils.cli import at_least
from apa_mmdet.utils.missing_data_hints import explain


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IMAGE_OR_FOLDER')
    parser.add_argument('config', metavar='CONFIG', help='config of the detector')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='its weights')
    parser.add_argument('--out-dir', default='outputs', help='(default: %(default)s)')
    parser.add_argument('--device', help='e.g. cpu or cuda:1 (default: the GPU if there is one)')
    parser.add_argument(
        '--batch-size', type=at_least(1), default=1, help='images at once; more is faster on a GPU (default: 1)'
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score of an object (default: %(default)s)')
    skipped = parser.add_mutually_exclusive_group()
    skipped.add_argument('--no-save-vis', action='store_true', help='write JSON only')
    skipped.add_argument('--no-save-pred', action='store_true', help='write images only')
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        summary = detect_folder(
            StrictDetInferencer(args.config, args.checkpoint, args.device),
            args.source,
            args.out_dir,
            args.batch_size,
            args.score_thr,
            no_save_vis=args.no_save_vis,
            no_save_pred=args.no_save_pred,
        )
    except FileNotFoundError as error:
        return f'image_demo: {explain(error)}'
    except torch.cuda.OutOfMemoryError:
        return 'image_demo: the GPU has not enough memory; use a smaller --batch-size, or --device cpu'
    except (OSError, ValueError) as error:
        return f'image_demo: {error}'
    except KeyboardInterrupt:
        return 130
    if summary.images:
        print(f'found {summary}\nwritten to {args.out_dir}')
    if summary.unreadable:
        some = ', '.join(summary.unreadable[:5]) + ', …' * (len(summary.unreadable) > 5)
        return f'image_demo: not an image, or damaged: {some}'


if __name__ == '__main__':
    sys.exit(main())
