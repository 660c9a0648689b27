"""The model zoo: every config once, with its size and pretrained weights; figures of the paper are marked as such."""

import re
from pathlib import Path

import pytest
import yaml
from helpers import tiny_images
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.get_flops import get_flops

ALL_FOLDERS = [str(p.relative_to(ROOT).parent) for p in sorted(ROOT.glob('configs/[!_]*/metafile.yml'))]
CLASSIFIERS = [f'configs/{folder}' for folder in tiny_images.FOLDERS]  # see tests/classification/test_model_zoo.py
FOLDERS = [folder for folder in ALL_FOLDERS if folder not in CLASSIFIERS]

# where the bases of the two lines of MMDetection have their weights
ONEDL, OPENMMLAB = 'https://mmassets.onedl.ai/', 'https://download.openmmlab.com/'


def models(folder):
    return yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())['Models']


def test_the_model_index_names_every_config_folder():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    assert sorted(index) == [f'{folder}/metafile.yml' for folder in ALL_FOLDERS]
    assert sorted({str(p.relative_to(ROOT).parent) for p in ROOT.glob('configs/[!_]*/*.py')}) == ALL_FOLDERS


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_and_readme_list_every_config_with_its_weights_and_figures(folder):
    check_figures(folder, 'AP')


def check_figures(folder, measure):
    readme = (ROOT / folder / 'README.md').read_text()
    assert sorted(m['Config'] for m in models(folder)) == sorted(
        str(p.relative_to(ROOT)) for p in ROOT.glob(f'{folder}/*.py')
    )
    assert all(m['Name'] == Path(m['Config']).stem for m in models(folder))
    for model in models(folder):
        weights = Config.fromfile(ROOT / model['Config']).model.backbone.get('init_cfg')
        checkpoint = weights and weights['checkpoint'].replace(ONEDL, OPENMMLAB)
        assert model['Metadata'].get('Pretrained') == checkpoint
        row = next(line for line in readme.splitlines() if line.startswith(f'| [{Path(model["Config"]).stem}]'))
        assert '| {Parameters (M):.2f} M | {FLOPs (G):.1f} G |'.format(**model['Metadata']) in row
        assert not checkpoint or checkpoint in row
        papers = [key for key in model if key.startswith('Published (arXiv:')]
        published = model[papers[0]] if papers else {}
        assert all(f'{name} {figure}' in row for name, figure in published.items())
        for name, figure in model.get('Results', [{}])[0].get('Metrics', {}).items():  # measured here
            assert f'{name.removeprefix("mask ") if "APr" in name else name} {figure}' in readme
        assert not papers or papers == [re.search(r'Published \(arXiv:[\d.]+, not reproduced here\)', papers[0])[0]]
        assert not published or (f'| published {measure} (not reproduced here) |' in readme and 'Results' not in model)


@pytest.mark.slow
@pytest.mark.parametrize('name', [m['Config'] for folder in FOLDERS for m in models(folder)])
def test_metafile_gives_the_counted_parameters_and_multiply_adds(name):
    check_counts(name)


def check_counts(name):
    metadata = next(m['Metadata'] for m in models(str(Path(name).parent)) if m['Config'] == name)
    cfg = Config.fromfile(ROOT / name)
    counts = get_flops(tiny_images.without_data(cfg) if name.startswith(tuple(CLASSIFIERS)) else cfg)
    assert counts.parameters / 1e6 == pytest.approx(metadata['Parameters (M)'], abs=0.006)
    assert counts.flops / 1e9 == pytest.approx(metadata['FLOPs (G)'], abs=0.06)
