"""Computes the metrics of predictions on disk, as the test would have given them, or writes its result files.

python tools/eval_results.py CONFIG FOLDER               predictions that a test kept; its log names the folder
python tools/eval_results.py CONFIG results.segm.json    a file that LVISMetric or CocoMetric wrote
python tools/eval_results.py CONFIG FOLDER --cfg-options test_evaluator.format_only=True \\
    test_evaluator.outfile_prefix=PREFIX                 writes PREFIX.bbox.json and PREFIX.segm.json for a server
"""

import json

from apa_mmdet.apis.offline_eval import eval_results
from apa_mmdet.utils import cli


def main():
    parser = cli.Parser(__doc__, cfg_options=True)
    parser.add_argument('config')
    parser.add_argument('predictions', help='folder or JSON file')
    args = parser.parse_args()
    metrics = eval_results(args.config, args.predictions, args.cfg_options)
    if metrics:
        print(json.dumps({key: None if value != value else value for key, value in metrics.items()}, indent=1))


if __name__ == '__main__':
    cli.run(main)
