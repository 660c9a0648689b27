"""How findings read, and that docs/dataset_prepare.md lists the codes with their texts."""

import re

import pytest
from helpers.paths import ROOT

from apa_mmdet.utils.finding_codes import CODES, ERROR, WARNING
from apa_mmdet.utils.findings import Findings, ValidationError


def test_the_docs_list_every_code_with_its_text():
    page = (ROOT / 'docs/dataset_prepare.md').read_text()
    rows = re.findall(r'^\| `([a-z0-9-]+)` \| (\w+) \| (.*?) \| (.*) \|$', page, re.M)
    texts = {code: (severity, fault, advice) for code, severity, fault, advice in rows}
    assert texts == {
        code: tuple(re.sub(r'\{\{|\}\}', lambda m: m[0][0], text) for text in CODES[code]) for code in CODES
    }


def test_every_code_has_a_fault_and_an_advice_in_one_line():
    for code, (severity, *texts) in CODES.items():
        assert re.fullmatch('[a-z0-9]+(-[a-z0-9]+)*', code) and severity in (ERROR, WARNING)
        assert all(text and '\n' not in text and '|' not in text for text in texts), code


@pytest.mark.parametrize(
    'code, ids, details, values, line',
    [
        (
            'duplicate-id',
            [4, 7, 8, 9],
            [],
            dict(records='images'),
            'error    train: ids of images used more than once: 4 of 20, e.g. 4, 7, 8; renumber them  [duplicate-id]',
        ),
        (
            'invalid-field',
            [4, 5],
            ["'7'", ''],
            dict(records='images', key='width', meaning='a whole number of pixels'),
            'error    train: images whose "width" is missing or not a whole number of pixels: 2 of 20, e.g. 4 (\'7\'), 5; '
            'correct or remove them; see "Your own data"  [invalid-field]',
        ),
        (
            'class-without-instance',
            [' pear'],
            [],
            {},
            "warning  train: classes without a training instance: 1 of 20, e.g. ' pear'; they will not be learned  "
            '[class-without-instance]',
        ),
    ],
)
def test_a_finding_about_records_in_a_line(code, ids, details, values, line):
    findings = Findings('train')
    findings.report(code, ids, 20, details, **values)
    assert [str(finding) for finding in findings] == [line] and findings[0].ids == tuple(ids)
    findings.report(code, [], 20, **values)
    assert len(findings) == 1


@pytest.mark.parametrize('wrong', [lambda image: image['width'] < 5, [True, False, True]])
def test_records_are_reported_by_a_predicate_or_a_mask(wrong):
    images = [dict(id=4, width=0), dict(id=5, width=9), dict(id=6, width=2)]
    findings = Findings('train')
    findings.check('duplicate-id', images, wrong, lambda image: f'width {image["width"]}', records='images')
    findings.check('duplicate-id', images, [False] * 3, records='images')
    (finding,) = findings
    assert finding.ids == (4, 6) and ': 2 of 3, e.g. 4 (width 0), 6 (width 2); ' in finding.message


def test_a_finding_about_the_data_set_in_a_line():
    findings = Findings('val, test')
    findings.add('num-classes-mismatch', ['head'], setting='head.num_classes', count=3, dataset='val', number=48)
    assert str(findings[0]) == (
        'error    val, test: head.num_classes is 3, but val has 48 classes; make them the same  [num-classes-mismatch]'
    )


def test_the_strict_mode_raises_errors_and_lists_warnings():
    findings = Findings('a.json', strict=True)
    findings.report('empty-box', [1], 2)
    with pytest.raises(ValidationError) as error:
        findings.report('negative-box', [1], 2)
    assert str(error.value).startswith('a.json: boxes of negative width or height: 1 of 2, e.g. 1; ')
    assert (error.value.code, error.value.ids) == ('negative-box', (1,)) and len(findings) == 1


def test_a_long_or_unprintable_name_is_cut_and_quoted():
    findings = Findings('train')
    findings.report('unreadable-image', ['a' * 5000, '\ud800\n.png'], 2)
    assert 'aaa…,' in findings[0].message and "'\\ud800\\n.png';" in findings[0].message
    assert len(findings[0].message) < 500
