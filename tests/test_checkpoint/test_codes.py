"""The codes of errors are those that the documentation lists."""

import re

from helpers.paths import ROOT

from apa_mmdet.checkpoint import compare, io


def test_the_documentation_lists_every_code():
    table = (ROOT / 'docs/fault_tolerance.md').read_text().split('| code | of |')[1].split('\n\n')[0]
    codes = [
        code for row in table.splitlines() if row.count('|') > 2 for code in re.findall('`([^`]+)`', row.split('|')[1])
    ]
    assert sorted(codes) == sorted([*io.CODES, *compare.CODES])
