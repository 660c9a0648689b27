"""Draws activations with their first derivatives: over their parameters, or as a network has learned them.

python tools/plot_activations.py                                        every learnable activation
python tools/plot_activations.py --types AGLU AconC SiLU
python tools/plot_activations.py work_dirs/mask_rcnn_se_r18_apa_seesaw/epoch_5.pth
"""

from pathlib import Path

from apa_mmdet.models.activations import learnable_activations
from apa_mmdet.utils import cli
from apa_mmdet.visualization.activation_plots import draw_types
from apa_mmdet.visualization.learned_activation_plots import draw_checkpoint


def parse_args():
    parser = cli.Parser(__doc__)
    text = 'draw the learned activations of this checkpoint, instead of types'
    parser.add_argument('checkpoint', nargs='?', type=Path, help=text)
    text = f'registered activations (default: {" ".join(learnable_activations())})'
    parser.add_argument('--types', nargs='+', metavar='TYPE', help=text)
    parser.add_argument('--config', type=Path, help='config of its detector (default: the one beside it)')
    parser.add_argument('--limit', type=cli.positive, default=5.0, help='inputs range from -LIMIT to LIMIT')
    out = Path('work_dirs/activations')
    parser.add_argument('--out', type=Path, default=out, metavar='DIR', help='folder of the figures')
    args = parser.parse_args()
    if args.config and not args.checkpoint:
        parser.error('--config needs a checkpoint: it describes the detector of the weights')
    if args.types and args.checkpoint:
        parser.error('--types and a checkpoint exclude each other')
    return args


def main():
    args = parse_args()
    if args.checkpoint:
        paths = draw_checkpoint(args.checkpoint, args.config, args.out, args.limit)
    else:
        paths = draw_types(args.types or list(learnable_activations()), args.out, args.limit)
    print('\n'.join(f'written: {path}' for path in paths))


if __name__ == '__main__':
    cli.run(main)
