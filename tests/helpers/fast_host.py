"""Importing this module spares a test process repeated work of MMEngine, which gives the same configs without.

For each base ``mmdet::…`` of a config it reads all metafiles of MMDetection (0.5 s) and imports pkg_resources again
(0.1 s), and for each log, dump and checkpoint it lays out the text of the config with yapf (2 s for the tiny config).
OneDL's MMEngine looks yapf up at each call.
"""

from functools import cache

from mmengine.config import config, utils
from yapf.yapflib import yapf_api

utils.load = cache(utils.load)
config.is_installed = cache(config.is_installed)
yapf_api.FormatCode = config.FormatCode = lambda text, **_: (text, True)
