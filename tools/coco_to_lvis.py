"""Writes annotations in COCO's form in LVIS's form, which LVISV1Dataset and FastLVISMetric read.

python tools/coco_to_lvis.py train.json lvis_train.json
python tools/coco_to_lvis.py val.json lvis_val.json --train train.json --negatives absent.json

Frequencies are those of IN, or of the training annotations given by --train. Without --negatives, whatever is not
annotated in an image is absent; absent.json maps ids of images to lists of ids of categories known to be absent.
"""

from apa_mmdet.apis.coco_to_lvis import coco_to_lvis
from apa_mmdet.utils import cli


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument('input', metavar='IN')
    parser.add_argument('output', metavar='OUT')
    parser.add_argument('--train', help='annotations whose classes give the frequencies')
    parser.add_argument('--negatives', help='JSON file of the categories that are absent in an image')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    args = parser.parse_args()
    print(coco_to_lvis(args.input, args.output, args.train, args.negatives, args.force))


if __name__ == '__main__':
    cli.run(main)
