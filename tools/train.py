"""MMDetection's tools/train.py with all its options, started from wherever mmdet is installed."""

from apa_mmdet.engine.stock_tools import run

if __name__ == '__main__':
    run('train.py')
