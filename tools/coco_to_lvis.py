"""Writes annotations in COCO's form in LVIS's form, which LVISV1Dataset and FastLVISMetric read.

python tools/coco_to_lvis.py train.json lvis_train.json
python tools/coco_to_lvis.py val.json lvis_val.json --train train.json --negatives absent.json

Frequencies are those of IN, or of the training annotations given by --train. Without --negatives, whatever is not
annotated in an image is absent; absent.json maps ids of images to lists of ids of categories known to be absent.
"""

import json

from apa_mmdet.datasets.frequency_groups import count_classes
from apa_mmdet.datasets.lvis_form import as_lvis
from apa_mmdet.datasets.validation.reading import read_annotations
from apa_mmdet.utils import cli
from apa_mmdet.utils.fileio import atomic_write


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument('input', metavar='IN')
    parser.add_argument('output', metavar='OUT')
    parser.add_argument('--train', help='annotations whose classes give the frequencies')
    parser.add_argument('--negatives', help='JSON file of the categories that are absent in an image')
    args = parser.parse_args()
    content, negatives, counts = read_annotations(args.input, whole=True), None, None
    if args.negatives:
        negatives = {int(number): absent for number, absent in read_annotations(args.negatives, whole=True).items()}
    if args.train:
        names = [category['name'] for category in content.get('categories', ())]
        counts = count_classes(read_annotations(args.train), args.train, names)
    lvis = as_lvis(content, args.input, negatives, counts)
    atomic_write(args.output, json.dumps(lvis).encode())
    groups = [category['frequency'] for category in lvis['categories']]
    print(
        f'{args.output}: {len(lvis["images"])} images, {len(lvis["annotations"])} annotations; '
        f'{groups.count("r")} rare, {groups.count("c")} common and {groups.count("f")} frequent classes'
    )


if __name__ == '__main__':
    cli.run(main)
