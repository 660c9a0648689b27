import pytest
from test_model_zoo import CLASSIFIERS, check_counts, check_figures, models


@pytest.mark.parametrize(
    'folder', [pytest.param(f, marks=pytest.mark.slow if f.endswith('imagenet') else ()) for f in CLASSIFIERS]
)
def test_metafile_and_readme_list_every_config_with_its_weights_and_figures(folder):
    check_figures(folder, 'top-1')


@pytest.mark.slow
@pytest.mark.parametrize('name', [m['Config'] for folder in CLASSIFIERS for m in models(folder)])
def test_metafile_gives_the_counted_parameters_and_multiply_adds(name):
    check_counts(name)
