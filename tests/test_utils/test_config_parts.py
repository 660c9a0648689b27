import re

from helpers.paths import ROOT

from apa_mmdet.utils.config import BadConfig


def test_the_docstring_lists_every_code():
    sources = [path.read_text() for path in (ROOT / 'apa_mmdet').rglob('*.py')]
    used = {code for source in sources for code in re.findall(r"BadConfig\(\s*'([a-z-]+)'", source)}
    assert used == set(re.findall('``([a-z-]+)``', BadConfig.__doc__)) and len(used) > 10
