"""MMDetection's tools/train.py, or MMPretrain's for a config of its scope, with all options of the stock tool."""

from apa_mmdet.apis.mmdet_tools import run

if __name__ == '__main__':
    run('train.py')
