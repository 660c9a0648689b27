"""The LVIS metrics of predictions on disk, as the test would have given them.

python tools/eval_results.py CONFIG FOLDER               predictions that a test kept; its log names the folder
python tools/eval_results.py CONFIG results.segm.json    a file written by LVISMetric with format_only
"""

import argparse
import json
import sys

from apa_mmdet.apis.offline_eval import eval_results
from apa_mmdet.utils.cli import add_cfg_options
from apa_mmdet.utils.missing_data_hints import explain


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('predictions', help='folder or JSON file')
    add_cfg_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        metrics = eval_results(args.config, args.predictions, args.cfg_options)
    except FileNotFoundError as error:
        return f'eval_results: {explain(error)}'
    except (OSError, ValueError) as error:
        return f'eval_results: {error}'
    print(json.dumps(metrics, indent=1))


if __name__ == '__main__':
    sys.exit(main())
