"""The report of the ablation: its tables, its picture, and the pages that show them."""

import sys

import numpy as np
import pytest
from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import ablation
import ablation_report as report
import measure
import studies

from apa_mmdet.utils.errors import CodedError

RESULTS = ROOT / 'benchmarks/results'
RECORDED = [study for study in studies.STUDIES if (RESULTS / f'ablation_{study}_cpu.csv').exists()]


@pytest.mark.parametrize('study', RECORDED)
def test_the_page_shows_the_recorded_results(study, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text((ROOT / 'docs/ablation.md').read_text())
    report.main(['--study', study, '--page', str(page)])
    assert page.read_text() == (ROOT / 'docs/ablation.md').read_text()
    assert (tmp_path / f'ablation_{study}.png').read_bytes().startswith(b'\x89PNG')
    assert (ROOT / f'docs/ablation_{study}.png').exists()


@pytest.mark.parametrize('name', studies.STUDIES)
def test_pairs_are_of_runs_that_a_study_has_and_no_pair_comes_twice(name):
    study = studies.STUDIES[name]
    pairs = study.pairs()
    assert len({*pairs}) == len(pairs) and all(a != b for a, b in pairs)
    assert all(run.arm in study.arms and run.calibration in study.calibrations for pair in pairs for run in pair)
    assert (
        len({study.label(b) for a, b in pairs if a == study.baseline}) == len(study.arms) * len(study.calibrations) - 1
    )


def test_the_table_counts_seeds_and_names_what_diverged():
    study = studies.STUDIES['tiny_lvis']
    first = next(row for row in ablation.read(RESULTS / 'ablation_tiny_lvis_cpu.csv') if row['name'] == 'apa-link')
    some = [first, dict(first, seed='1', mask_ap='0.0', note='diverged: loss_cls is nan')]
    table = report.runs_table(study, some, [])
    (arm,) = (line for line in table.splitlines() if line.startswith('| random |'))
    mean = (float(some[0]['mask_ap']) + 0) / 2
    assert arm.split(' | ')[5] == '2' and arm.split(' | ')[6].startswith(f'{mean:.3f} ± ')
    line = 'Diverged, and counted with the AP that they reached, mostly 0, in the differences too: apa-link, seed 1.'
    assert line in table.splitlines()
    assert report.mean_and_deviation([0.25]) == '0.250'
    assert report.mean_and_deviation([-1.0, 0.2]) == report.mean_and_deviation([float('nan'), 0.2]) == '–'


def test_a_run_that_diverged_counts_in_the_differences():
    a, b = studies.Run('relu-link'), studies.Run('apa-link')
    nothing = dict.fromkeys(report.GROUPS.values(), '0')
    runs = {(run, seed): nothing for run in (a, b) for seed in '01'}
    of_all_and_samples = np.array([0.2, *[0.1, 0.3] * 50])
    samples = {f'segm_{group}': of_all_and_samples for group in report.GROUPS}
    resampled = {(a, '0'): samples, (a, '1'): samples, (b, '0'): {group: 2 * v for group, v in samples.items()}}
    rows = list(report.differences([(a, b, ['0', '1']), (b, a, [])], runs, resampled))
    assert [(row['a'], row['b'], row['seeds'], row['group']) for row in rows] == [
        ('relu-link', 'apa-link', '0 1', group) for group in ('AP', 'APr', 'APc', 'APf')
    ]
    assert rows[0]['b_value'] == rows[0]['a_value'] == 0.2 and rows[0]['difference'] == 0  # (0.4 + 0) / 2 against 0.2
    assert rows[0]['low'] < -0.05 and rows[0]['high'] > 0.05, 'an interval over the seed that diverged, too'


def test_arms_without_a_common_seed_are_not_compared(tmp_path):
    rows = [row for row in ablation.read(RESULTS / 'ablation_tiny_lvis_cpu.csv') if row['name'] == 'acon']
    with pytest.raises(CodedError) as error:
        report.compare(studies.STUDIES['tiny_lvis'], rows, tmp_path, None)
    assert error.value.code == 'nothing-to-compare'


def test_steps_are_measured_of_the_configs_of_a_study():
    of_tiny, of_small = (studies.STUDIES[name].configs() for name in ('tiny_lvis', 'small_lvis'))
    assert not any('pretrained' in path.stem for path in of_tiny) and len(of_tiny) == 8
    assert len({*of_small}) == len(of_small) == 9
    rows = measure.read_results(RESULTS / 'step_tiny_lvis_cpu.csv')
    assert [row['config'] for row in rows if row['config'] not in {path.stem for path in of_tiny}] == []


def test_a_page_without_a_place_for_the_tables_is_refused(tmp_path):
    (tmp_path / 'page.md').write_text('no marks')
    with pytest.raises(CodedError, match='has no place for the tables: it needs the lines <!-- tiny_lvis: ') as error:
        report.write_between_marks('tiny_lvis', '', tmp_path / 'page.md')
    assert error.value.code == 'no-marks'
