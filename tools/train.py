"""MMDetection's tools/train.py with all its options, started from wherever mmdet is installed."""

from apa_mmdet.apis.mmdet_tools import run

if __name__ == '__main__':
    run('train.py')
