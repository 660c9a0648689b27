"""Parameters and multiply-adds of configs' models at 800x1280, as the model zoo's tables give them.

python tools/get_flops.py configs/lvis/mask_rcnn_se_r50_apa.py configs/coco/*.py
"""

import argparse
import logging

from mmengine.config import Config

from apa_mmdet.apis.get_flops import complexity

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+')
    logging.disable(logging.WARNING)  # MMEngine lists every operator that it does not count
    for path in parser.parse_args().configs:
        found = complexity(Config.fromfile(path))
        print(f'{path}: {found.parameters / 1e6:.2f} M parameters, {found.flops / 1e9:.1f} G multiply-adds', flush=True)
