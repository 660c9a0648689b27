"""A file is validated once, and again when it, its use or the validation changes."""

import copy
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from helpers.annotations import TRAIN, codes, edit, first
from mmdet.datasets import LVISV1Dataset
from mmengine.logging import MMLogger

from apa_mmdet.datasets.validation import stamps
from apa_mmdet.datasets.validation import validate_config as file_under_test
from apa_mmdet.datasets.validation.annotations import Summary
from apa_mmdet.datasets.validation.stamps import check_once
from apa_mmdet.datasets.validation.validate_config import validate_config
from apa_mmdet.utils.findings import Findings

SUMMARY = Summary([dict(id='a', name='\u00e9')], 7, dict(date=3, fig=0), 1, 0, 6)
LONG_AGO = 10**18


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache/apa_mmdet/annotations'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('content')
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def found(path, usage='train', name='train', code='empty-box', summary=SUMMARY):
    """Whether the file was validated, and its findings."""
    findings, validated = Findings(name), []

    def check(findings):
        validated.append(1)
        if code:
            findings.report(code, [3, 'x'], 9, records='images', name='id')
        return summary

    assert check_once(str(path), usage, findings, check) == summary
    return bool(validated), findings


def test_findings_and_summary_are_repeated_for_an_unchanged_file(file):
    validated, before = found(file)
    again, after = found(file, name='val')
    assert (validated, again) == (True, False)
    assert after == [finding._replace(dataset='val') for finding in before] and after[0].ids == (3, 'x')


def test_another_use_is_validated_by_itself(file):
    assert found(file)[0] and found(file, usage='test')[0]
    assert not found(file)[0] and not found(file, usage='test')[0]


def test_the_content_decides_where_only_the_time_differs(file, monkeypatch):
    found(file)
    os.utime(file, ns=(LONG_AGO, LONG_AGO + 1))
    assert not found(file)[0]
    monkeypatch.setattr(stamps, '_hash', lambda path: pytest.fail('the new time was not kept'))
    assert not found(file)[0]


@pytest.mark.parametrize('content', ['CONTENT', 'more content', ''])
def test_a_changed_file_is_validated_again(file, content):
    found(file)
    file.write_text(content)
    assert found(file)[0] and not found(file)[0]


def test_a_change_right_after_the_validation_is_noticed_although_size_and_time_are_the_same(file):
    os.utime(file)
    stat = file.stat()
    found(file)
    file.write_text('CONTENT')
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found(file)[0]


def test_a_file_that_changes_during_its_validation_is_not_taken_for_validated(file):
    def check(findings):
        file.write_text('CONTENT')
        return SUMMARY

    check_once(str(file), 'train', Findings('train'), check)
    assert found(file)[0]


def test_a_link_to_another_file_is_validated_again(file, tmp_path):
    link, other = tmp_path / 'link.json', tmp_path / 'b.json'
    other.write_text('CONTENT')
    os.utime(other, ns=(LONG_AGO, LONG_AGO))
    link.symlink_to(file)
    found(link)
    link.unlink()
    link.symlink_to(other)
    assert found(link)[0]


def test_errors_are_never_kept(file):
    assert found(file, code='duplicate-id')[0] and found(file, code='duplicate-id')[0]
    assert found(file, summary=None)[0] and found(file, summary=None)[0]


def test_a_version_is_the_code_of_reading_and_of_checks():
    assert {'reading.py', 'masks.py', 'findings.py', 'rle.py'} <= {path.name for path in stamps._sources()}


def test_another_version_validates_again(file, monkeypatch):
    found(file)
    monkeypatch.setattr(stamps, '_version', lambda: 'another')
    assert found(file)[0]


@pytest.mark.parametrize(
    'harm',
    [lambda s: b'', lambda s: s[:-9], lambda s: b'[]', lambda s: s.replace(b'"counts":{', b'"counts":{"x":"y",')],
    ids=range(4),
)
def test_a_damaged_stamp_is_made_again(file, cache, harm):
    found(file)
    (stamp,) = cache.iterdir()
    stamp.write_bytes(harm(stamp.read_bytes()))
    assert found(file)[0] and not found(file)[0]


def test_a_stamp_with_a_code_of_another_version_is_made_again(file, cache):
    found(file)
    (stamp,) = cache.iterdir()
    stamp.write_text(stamp.read_text().replace('empty-box', 'no-such-code'))
    assert found(file)[0]


def test_a_cache_that_cannot_be_written_costs_a_line_in_the_log(file, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'info', lines.append)
    (tmp_path / 'cache').write_text('not a folder')
    assert found(file)[0] and found(file)[0]
    assert len(lines) == 2 and all('is validated in each run: ' in line and '\n' not in line for line in lines)


def test_no_home_folder_is_no_error(file, monkeypatch):
    def homeless():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr('pathlib.Path.home', homeless)
    assert found(file)[0] and found(file)[0]


@pytest.mark.parametrize('name', ['\ud800', 'a\0b'])
def test_names_that_a_stamp_cannot_hold_are_no_error(file, name):
    summary = Summary([dict(id=1, name=name)], 0, {name: 1}, 0, 0, 0)
    assert found(file, summary=summary)[0]
    assert found(file, summary=summary)[0] == (name == '\ud800')


def test_a_file_that_is_gone_is_left_to_the_validation(tmp_path):
    assert found(tmp_path / 'gone.json')[0]


def test_stamps_that_were_not_used_for_longest_are_removed(file, cache, monkeypatch):
    monkeypatch.setattr(stamps, 'MAX_STAMPS', 2)
    for usage in ('a', 'b'):
        found(file, usage=usage)
    for age, stamp in enumerate(sorted(cache.iterdir(), key=lambda stamp: stamp.stat().st_mtime_ns)):
        os.utime(stamp, ns=(LONG_AGO + age, LONG_AGO + age))
    assert not found(file, usage='a')[0]  # used again
    found(file, usage='c')
    assert len(list(cache.iterdir())) == 2
    assert not found(file, usage='a')[0] and found(file, usage='b')[0]


def test_processes_that_validate_at_once_find_the_same(file):
    with ProcessPoolExecutor(4, get_context('fork')) as pool:
        results = [pool.submit(found, file) for _ in range(8)]
        assert len({tuple(result.result()[1]) for result in results}) == 1
    assert not found(file)[0]


# ---------------------------------------------------------------- of a config


@pytest.fixture
def reads(monkeypatch):
    """Calls of the decoder."""
    paths, read = [], file_under_test.read_annotations
    monkeypatch.setattr(file_under_test, 'read_annotations', lambda path: paths.append(path) or read(path))
    return paths


def report(cfg, images=None):
    return validate_config(cfg, ['train', 'val'], images, progress=False)


def test_a_config_is_validated_once_and_warnings_are_not_lost(broken, reads):
    folder, cfg = broken
    edit(folder / TRAIN, lambda content: content['images'].append(dict(content['images'][0], id=10**6)))
    for path in (folder / 'annotations').iterdir():
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    before = report(copy.deepcopy(cfg))
    assert len(reads) == 2 and codes(before.findings) == [('image-without-annotations', (10**6,))]
    assert report(copy.deepcopy(cfg)) == before and len(reads) == 2
    cfg.train_dataloader.dataset.dataset.pipeline = []  # masks are not read
    assert codes(report(copy.deepcopy(cfg)).findings)[0] == ('image-without-annotations', (10**6,))
    assert len(reads) == 3
    report(cfg, images=False)  # tools/check_dataset.py looks again
    assert len(reads) == 5


def test_an_error_is_found_again_and_its_correction_too(broken, reads):
    folder, cfg = broken
    text = (folder / TRAIN).read_text()
    edit(folder / TRAIN, first('annotations', bbox=[1, 2, 3]))
    for _ in range(2):
        assert codes(report(copy.deepcopy(cfg)).findings)[0] == (
            'invalid-field',
            (json.loads(text)['annotations'][0]['id'],),
        )
    (folder / TRAIN).write_text(text)
    assert not report(cfg).errors


def test_checks_across_data_sets_use_what_is_kept(broken):
    folder, cfg = broken
    content = json.loads((folder / TRAIN).read_text())
    first = content['categories'][0]
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] != first['id']]
    (folder / TRAIN).write_text(json.dumps(content))
    for _ in range(2):
        assert ('class-without-instance', (first['name'],)) in codes(report(copy.deepcopy(cfg)).findings)


class ChangingDataset(LVISV1Dataset):
    """A data set of the user's, whose code no stamp knows."""


def test_data_sets_of_others_are_validated_each_time(broken, reads):
    cfg = broken[1]
    cfg.train_dataloader.dataset.dataset.type = ChangingDataset
    for _ in range(2):
        assert not validate_config(copy.deepcopy(cfg), ['train'], None, progress=False).errors
    assert len(reads) == 2
