"""Computes the LVIS metrics of predictions on disk, as the test would have given them.

python tools/eval_results.py CONFIG FOLDER               predictions that a test kept; its log names the folder
python tools/eval_results.py CONFIG results.segm.json    a file written by LVISMetric with format_only
"""

import json

from apa_mmdet.apis.offline_eval import eval_results
from apa_mmdet.utils import cli


def main():
    parser = cli.Parser(__doc__, cfg_options=True)
    parser.add_argument('config')
    parser.add_argument('predictions', help='folder or JSON file')
    args = parser.parse_args()
    print(json.dumps(eval_results(args.config, args.predictions, args.cfg_options), indent=1))


if __name__ == '__main__':
    cli.run(main)
