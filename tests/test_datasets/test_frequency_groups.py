import pytest

from apa_mmdet.datasets.frequency_groups import check_options


@pytest.mark.parametrize(
    'bounds', [10, (10,), (1, 2, 3), ('a', 'b'), ('10', '100'), {1, 2}, (100, 10), (-1, 5), (None, 3)]
)
def test_bounds_that_are_no_ascending_pair_are_named(bounds):
    with pytest.raises(ValueError, match=r'frequency_groups\.bounds is .*; it must be two ascending numbers of images'):
        check_options(dict(ann_file='train.json', bounds=bounds))


@pytest.mark.parametrize('quantiles', [0.5, ('a', 'b'), (0.5, 1.5), (float('nan'), 1)])
def test_quantiles_that_are_no_shares_are_named(quantiles):
    with pytest.raises(ValueError, match=r'frequency_groups\.quantiles is .*; it must be two ascending shares'):
        check_options(dict(ann_file='train.json', quantiles=quantiles))


@pytest.mark.parametrize('options', ['train.json', ['train.json'], 3])
def test_options_that_are_no_dict_are_named(options):
    with pytest.raises(ValueError, match='frequency_groups is .*; it must be a dict with ann_file'):
        check_options(options)


@pytest.mark.parametrize('options', [{}, dict(bounds=(10, 100)), dict(bounds=[0, 0]), dict(quantiles=(0.2, 1))])
def test_valid_options(options):
    check_options(dict(ann_file='train.json', **options))
