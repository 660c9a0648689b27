"""Detects objects in an image, or in all images of a folder and its sub-folders.

python tools/image_demo.py photo.jpg CONFIG CHECKPOINT
python tools/image_demo.py photos CONFIG CHECKPOINT --out-dir found --batch-size 4 --score-thr 0.5

OUT_DIR/vis/NAME        the image with boxes, masks, class names and scores in percent; small ones are enlarged,
                        very large ones reduced
OUT_DIR/preds/NAME.json {"image", "height", "width", and one entry per object in falling order of scores:
                        "label_names", "labels" (number of the class, from 0), "scores",
                        "bboxes" ([left, top, right, bottom] in pixels of the image),
                        "masks" (COCO's run-length code, for pycocotools.mask.decode)}

Both hold the objects of score SCORE_THR or more, each as its best class; --all-classes gives every class that an
object is detected as. NAME is the image's path in the folder. Of a file with several images the first is taken.
"""

import torch

from apa_mmdet.apis.det_inferencer import StrictDetInferencer
from apa_mmdet.apis.inference_folder import detect_folder
from apa_mmdet.utils import cli


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument('source', metavar='IMAGE_OR_FOLDER')
    parser.add_argument('config', metavar='CONFIG', help='config of the detector')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='its weights')
    parser.add_argument('--out-dir', default='outputs', help='folder of the results')
    parser.add_argument('--device', help='e.g. cpu or cuda:1 (default: the GPU if there is one)')
    parser.add_argument('--batch-size', type=cli.at_least(1), default=1, help='images at once; more is faster on a GPU')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score of an object')
    parser.add_argument(
        '--all-classes', action='store_true', help='every class of an object instead of the best, as metrics count them'
    )
    skipped = parser.add_mutually_exclusive_group()
    skipped.add_argument('--no-save-vis', action='store_true', help='write JSON only')
    skipped.add_argument('--no-save-pred', action='store_true', help='write images only')
    return parser.parse_args()


def main():
    args = vars(parse_args())
    try:
        inferencer = StrictDetInferencer(*(args.pop(name) for name in ('config', 'checkpoint', 'device')))
        summary = detect_folder(inferencer, **args)
    except torch.cuda.OutOfMemoryError:
        return 'the GPU has not enough memory; use a smaller --batch-size, or --device cpu'
    if summary.images:
        print(f'found {summary}\nwritten to {args["out_dir"]}')
    if summary.skipped:
        return summary.explain_skipped()


if __name__ == '__main__':
    cli.run(main)
