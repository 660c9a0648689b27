"""Compares two detectors on the same images: is B better than A, and which difference could be seen at all?

python tools/test.py CONFIG CHECKPOINT --out a.pkl       writes results; or set test_evaluator.outfile_prefix
python tools/compare_results.py CONFIG --a a.pkl --b b.pkl
python tools/compare_results.py CONFIG --a a0.pkl a1.pkl a2.pkl --b b0.pkl b1.pkl b2.pkl

Several results are those of several seeds, the same ones for A and B, in the same order.
"""

from apa_mmdet.apis.compare_results import compare_results
from apa_mmdet.utils import cli


def main():
    parser = cli.Parser(__doc__, cfg_options=True)
    parser.add_argument('config', help='of which the annotations and the metric are taken')
    for name in 'ab':
        text = f'results of {name.upper()}: files of tools/test.py --out, or folders of predictions'
        parser.add_argument(f'--{name}', nargs='+', required=True, metavar=name.upper(), help=text)
    parser.add_argument('--samples', type=cli.at_least(100), default=1000, help='samples of the images')
    parser.add_argument('--seed', type=cli.at_least(0), default=0, help='of the samples')
    args = parser.parse_args()
    options = dict(samples=args.samples, seed=args.seed, cfg_options=args.cfg_options)
    print(compare_results(args.config, dict(A=args.a, B=args.b), **options).table())


if __name__ == '__main__':
    cli.run(main)
