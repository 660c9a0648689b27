#!/usr/bin/env python
"""Writes a config for data of your own, in COCO's or LVIS's form, and explains each choice in it.

    tools/new_config.py train.json own.py --val val.json
    tools/new_config.py trainval.json own.py --split 0.2

Classes, loss, image size, batch, learning rate and schedule follow from the annotations, the machine and the weights;
docs/dataset_prepare.md has the rules. The last line printed is the command that trains.
"""

from apa_mmdet.apis.new_config.new_config import new_config, this_machine
from apa_mmdet.utils import cli


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument('train', metavar='TRAIN', help='annotation file of the training')
    parser.add_argument('out', metavar='OUT', help='config to write')
    data = parser.add_mutually_exclusive_group()
    data.add_argument('--val', help='annotation file of the validation')
    data.add_argument('--split', type=cli.share, help='share of the images to hold out for it, in two new files')
    parser.add_argument('--images', help='folder of the images; by default it is looked for')
    parser.add_argument('--val-images', help='the same of the validation')
    parser.add_argument('--boxes', action='store_true', help='learn no masks')
    parser.add_argument('--weights', help='checkpoint of a backbone or a detector to start from')
    parser.add_argument('--device', choices=('cpu', 'gpu'), help="machine of the training, by default this one's")
    parser.add_argument('--gpus', type=cli.at_least(1), help='number of GPUs')
    parser.add_argument('--gpu-memory', type=cli.positive, metavar='GIB', help='memory of each, 24 if not known')
    parser.add_argument('--epochs', type=cli.at_least(1), help='length of the training')
    parser.add_argument('--force', action='store_true', help='overwrite files')
    return parser.parse_args()


def main():
    args = parse_args()
    machine = this_machine(args.device, args.gpus, args.gpu_memory)
    data = args.train, args.out, args.val, args.split, args.images, args.val_images
    print(new_config(*data, machine, args.weights, args.boxes, args.epochs, args.force))


if __name__ == '__main__':
    cli.run(main)
