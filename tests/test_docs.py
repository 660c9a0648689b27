"""The links and paths of every page exist, and every command runs on small data in a copy of the repository.

`make test` checks that each command is listed here, `make test-slow` runs them. test_add_an_activation.py runs those of
docs/customize_activation.md, test_recipes.py the Python blocks of docs/train.md, test_deploy those of docs/deploy.md.
"""

import importlib
import re
import shutil

import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import in_a_copy
from helpers.tiny_runs import log_of, tinier
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_training import as_custom_dataset

from apa_mmdet.checkpoint.io import load_as_data
from apa_mmdet.checkpoint.official_names import translate_names

PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md')),
    *sorted(ROOT.glob('docs/*.md')),
    *sorted(ROOT.glob('configs/*/README.md')),
    ROOT / 'benchmarks/results/README.md',
]
PROGRAM = r'(?:[A-Z_]+=\S+ )*(?:python|make|pip|curl|mkdir|ln|tools/\w+\.sh) '


def commands(page):
    r"""Returns the commands of a page, once each and without comments: in indented blocks and in backticks.

    >>> commands('    X=1 python a.py \\\n        b   # c\n\nor `make\nd` in `tools/e.py`')
    ['X=1 python a.py b', 'make d']
    """
    page = re.sub(r'^```.*?^```$', '', page, flags=re.M | re.S).replace('\\\n', '')
    found = re.findall(rf'^ {{4}}({PROGRAM}.*)', page, re.M) + re.findall(rf'`({PROGRAM.rstrip()}\s[^`]*)`', page)
    return list(dict.fromkeys(' '.join(re.sub(r' # .*', '', command).split()) for command in found))


# Values for the reader's placeholders, and for what a small machine does not have.
TINY = 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
DEMO = 'configs/tiny_lvis/mask_rcnn_se_r18_apa_seesaw.py'
WORK = 'work_dirs/mask_rcnn_se_r18_apa_seesaw'
PLACES = {
    'CONFIG': DEMO,
    'CHECKPOINT': f'{WORK}/epoch_1.pth',
    'FOLDER': 'work_dirs/lvis.predictions',
    'IN': 'official.pth',
    'OUT': 'converted.pth',
    'IMAGE_OR_FOLDER': 'data/tiny_lvis/val2017',
    'path/to/data': 'data/own',
    'trainval.json': 'data/own/trainval.json',
    'train.json': 'data/tiny_coco/annotations/instances_train2017.json',
    'val.json': 'data/tiny_coco/annotations/instances_val2017.json',
    '8': '2',
}
SHORT = '--cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1 train_dataloader.batch_size=2'
FEW = f'{SHORT} train_dataloader.dataset.dataset.indices=4 val_dataloader.dataset.indices=2'
TINY_DATA = '--train 16 --val 4 --size 96'
# Commands that the others need, in this order; then the others, in any order. The value is appended, to make them short.
FIRST = {
    'python tools/make_tiny_lvis.py': TINY_DATA,
    'python tools/make_tiny_lvis.py data/tiny_lvis_1000 --val 1000': TINY_DATA,
    'python tools/make_tiny_lvis.py --form coco': TINY_DATA,
    'ln -s tiny_coco data/coco': '',
    f'python tools/train.py {DEMO}': SHORT,
    f'python tools/test.py {DEMO} $(cat {WORK}/last_checkpoint)': '--cfg-options model.test_cfg.rcnn.score_thr=1e-5',
    f'python tools/report.py {WORK}': '--images 2',
}
KEPT = '--cfg-options test_evaluator.outfile_prefix=work_dirs/lvis model.test_cfg.rcnn.score_thr=1e-5'
COCO = 'train_cfg.max_epochs=1 train_cfg.val_interval=1 train_dataloader.batch_size=1'
OTHERS = {
    'DATA_ROOT=path/to/data python tools/check_dataset.py configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py': '',
    'DATA_ROOT=path/to/data python tools/train.py configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py': SHORT,
    'mkdir -p data/lvis_v1/annotations': '',
    'python benchmarks/ablation.py --calibrations none fracal --jobs 2': (
        '--arms apa-link --seeds 0 --out abl/a.csv --cfg-options train_cfg.max_epochs=1'
    ),
    'python benchmarks/ablation_report.py': '',
    f'OMP_NUM_THREADS=1 python benchmarks/step.py {TINY} --batch-size 2': '--rounds 2 --batches 1',
    f'OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node 2 benchmarks/step.py {TINY} --batch-size 2': (
        '--rounds 2 --batches 1'
    ),
    'python benchmarks/step.py': f'{TINY} --rounds 2 --batches 1',
    'python benchmarks/step.py --out benchmarks/results': f'{TINY} --rounds 2 --batches 1',
    'python -m apa_mmdet.ops.backends': '',
    'python tools/browse_dataset.py CONFIG': '--images 4',
    'python tools/check_dataset.py CONFIG': '',
    'python tools/check_dataset.py CONFIG --no-images': '',
    'python tools/check_dataset.py CONFIG --split train': '',
    'python tools/check_dataset.py CONFIG --workers 16': '',
    'python tools/check_dataset.py configs/coco/mask_rcnn_se_r50_apa_1x_coco.py': '',
    'python tools/check_dataset.py configs/lvis/mask_rcnn_se_r50_apa.py': '',
    'python tools/check_dataset.py configs/v3det/faster_rcnn_se_r50_apa_v3det.py': '',
    'python tools/class_statistics.py trainval.json class_statistics.json': '--force',
    'python tools/coco_to_lvis.py trainval.json lvis_trainval.json': '--force',
    'python tools/compare_results.py CONFIG --a a.pkl --b b.pkl': '',
    'python tools/convert_official_weights.py IN OUT --config CONFIG': '',
    'python tools/convert_official_weights.py se_resnet50.pth pretrained/se_resnet50_apa.pth': '--force',
    'python tools/eval_results.py CONFIG FOLDER': '',
    'python tools/export_onnx.py CONFIG CHECKPOINT': '',
    'python tools/export_onnx.py CONFIG CHECKPOINT --part detector': '',
    'python tools/image_demo.py IMAGE_OR_FOLDER CONFIG CHECKPOINT': '--score-thr 0.01',
    'python tools/make_tiny_lvis.py --form imagenet': '--train 48 --val 48',
    'python tools/make_tiny_lvis.py --form small_lvis': '--train 2 --val 1',
    'python tools/make_tiny_lvis.py --form small_objects': '--train 2 --val 1',
    'python tools/new_config.py train.json own.py --val val.json': '--force --device cpu',
    'python tools/new_config.py trainval.json own.py --split 0.2': '--force --device cpu',
    'python tools/plot_activations.py CHECKPOINT': '',
    'python tools/plot_activations.py --out docs/activations': '',
    'python tools/test.py CONFIG CHECKPOINT': KEPT,
    'python tools/test.py CONFIG CHECKPOINT --cfg-options test_evaluator.format_only=True test_evaluator.outfile_prefix=work_dirs/submission': '',
    'python tools/test.py CONFIG CHECKPOINT --cfg-options model.type=CalibrateScores model.module.type=MaskRCNN model.calibration.type=FRACAL model.calibration.stats=data/tiny_lvis/annotations/lvis_v1_train.json': '',
    'python tools/test.py CONFIG CHECKPOINT --out a.pkl': '',
    'python tools/test.py CONFIG CHECKPOINT --tta': '',
    'python tools/train.py CONFIG --cfg-options optim_wrapper.type=MixedPrecisionOptimWrapper optim_wrapper.dtype=bfloat16': SHORT.removeprefix(
        '--cfg-options'
    ),
    'python tools/train.py CONFIG --auto-scale-lr': SHORT,
    'python tools/train.py CONFIG --auto-scale-lr --cfg-options train_dataloader.batch_size=4': (
        'train_cfg.max_epochs=1 train_cfg.val_interval=1'
    ),
    # the others want the first checkpoint
    'python tools/train.py CONFIG --resume': SHORT.replace('max_epochs=1', 'max_epochs=2')
    + ' default_hooks.checkpoint.max_keep_ckpts=2',
    'python tools/train.py configs/lvis/mask_rcnn_se_r50_apa.py --auto-scale-lr': FEW,
    'tools/dist_test.sh CONFIG CHECKPOINT 8': '',
    'tools/dist_test.sh configs/lvis/mask_rcnn_se_r50_apa.py work_dirs/mask_rcnn_se_r50_apa/epoch_24.pth 8': '--cfg-options test_dataloader.dataset.indices=2',
    'tools/dist_train.sh CONFIG 8': SHORT,
    'tools/dist_train.sh configs/coco/mask_rcnn_se_r50_apa_1x_coco.py 8': f'--cfg-options {COCO} train_dataloader.dataset.indices=4',
    'tools/dist_train.sh configs/lvis/mask_rcnn_se_r50_apa.py 8': FEW,
    'tools/dist_train.sh configs/v3det/faster_rcnn_se_r50_apa_v3det.py 8': '--cfg-options train_cfg.max_iters=2 train_cfg.val_interval=2 train_dataloader.batch_size=1 '
    'train_dataloader.dataset.dataset.indices=4 val_dataloader.dataset.indices=2 model.test_cfg.rcnn.score_thr=0.5',
}
R50 = 'configs/imagenet/se_resnet50_apa_in1k.py'
ON_4_GPUS = (
    R50,
    'configs/imagenet_lt/se_resnet50_apa_imagenet-lt.py',
    'configs/inat18/se_resnet50_apa_inat18.py',
    'configs/places_lt/se_resnet152_apa_places-lt.py',
)
CIFAR = 'configs/cifar100_lt/se_resnet32_apa_cifar100-lt.py'
PRETRAINED = 'work_dirs/se_resnet50_apa_in1k/epoch_100.pth'
OBJECTS = 'configs/tiny_objects/se_resnet18_apa_tiny-objects.py'
FROM_OBJECTS = 'configs/tiny_lvis/mask_rcnn_se_r18_apa_pretrained.py'
OF_OBJECTS = [
    'make demo-pretrained',
    'make demo-pretrained BASELINE=1',
    f'python tools/train.py {OBJECTS}',
    'python tools/train.py configs/small_objects/se_resnet18_apa_small-objects.py',
    f'python tools/train.py {FROM_OBJECTS}',
    f'python tools/test.py {FROM_OBJECTS} $(cat work_dirs/mask_rcnn_se_r18_apa_pretrained/last_checkpoint)',
]
OF_CLASSIFIERS = [
    *(f'python tools/check_dataset.py {config}' for config in (*ON_4_GPUS, CIFAR)),
    *(f'tools/dist_train.sh {config} 4' for config in ON_4_GPUS),
    f'python tools/train.py {CIFAR}',
    f'python tools/test.py {R50} {PRETRAINED}',
    'python tools/train.py configs/lvis/mask_rcnn_se_r50_apa.py --cfg-options '
    f'model.backbone.init_cfg.checkpoint={PRETRAINED}',
    f'python tools/convert_official_weights.py IN OUT --config {R50}',
    "python -c \"import numpy as np; y = np.loadtxt('ImageNet_LT_train.txt', usecols=-1, dtype=int); "
    'print(*np.argsort(-np.bincount(y)))" > order.txt',
    f'python tools/convert_official_weights.py IN OUT --config {ON_4_GPUS[1]} --class-order order.txt',
]
# Commands that are not run here: where they are, or why they cannot be.
NOT_HERE = {
    'python tools/test.py configs/lvis/mask_rcnn_se_r50_relu_softmax_fracal.py CHECKPOINT': (
        'the same with CONFIG, and test_configs.py builds this config'
    ),
    'python tools/train.py configs/small_lvis/mask_rcnn_se_r18_apa_small-lvis.py': 'test_training.py, with small data',
    'python benchmarks/ablation_report.py --compare --results work_dirs/benchmarks': 'test_ablation.py, slow',
    'python benchmarks/step.py --study small_lvis --keep-memory': 'the same with other configs, which need their weights',
    'make bench': 'test_benchmarks runs its four scripts',
    'python tools/train.py CONFIG --cfg-options data_root=path/to/data classes=date,fig,hazelnut max_epochs=2': (
        'test_configs.py applies these options to every config'
    ),
    'make check-cuda-build': 'needs nvcc and a CUDA build of torch',
    'make cov': '`make test` with coverage',
    'make demo': 'FIRST, and test_demo.py at full length',
    'make docs': 'installs packages',
    'make gpu-bundle': 'downloads',
    'make gpu-bundle ARGS="--built DIR"': 'downloads',
    'make gpu-check': 'needs a GPU',
    'make gpu-check ARGS=--cpu': 'test_benchmarks/test_gpu_check.py, slow',
    'make lint': '.ci/run',
    'make lint test': '.ci/run',
    'make setup': 'set-up, before any test',
    'make setup ENVIRONMENT=oldest': '`make test-matrix`',
    'make setup HOST=onedl': '`make test-matrix`',
    'make setup HOST=openmmlab': '`make test-matrix`',
    'make setup TORCH="torch==2.11.0 --index-url https://download.pytorch.org/whl/cu130"': 'test_setup.py, another torch',
    'make test': '.ci/run',
    'make test-classification VENV=.venv-matrix/onedl': 'a part of `make test` in another environment',
    'make test-detection': 'its larger part',
    'make test-matrix': '1.5 hours; test_test_matrix.py runs it in a small repository',
    'make test-matrix ENVS="onedl oldest"': 'the same',
    'make test-slow': 'what runs this',
    'pip check': 'test_requirements.py',
    'pip install -e .': 'set-up, before any test',
    "pip install 'apa_mmdet[classification]'": 'downloads',
    **dict.fromkeys(OF_OBJECTS, 'tests/classification/test_tiny_objects.py'),
    **dict.fromkeys(OF_CLASSIFIERS, 'tests/classification/test_commands.py'),
    'pip install -e ".[onedl]"': 'test_packaging.py compares the extras with compat.py',
    'pip install -e ".[openmmlab]"': 'the same',
    'pip install mmcv==2.1.0 -f https://download.openmmlab.com/mmcv/dist/cu121/torch2.1/index.html': 'needs a GPU',
    'pip install lmdb': 'downloads',
    'pip install pre-commit': 'downloads',
    'python -m pytest --numprocesses 2 tests/test_engine': 'tests',
    'python -m pytest -m slow tests/test_ops/test_backends': 'tests',
    'python -m pytest -m slow tests/test_training.py': 'tests',
    'python -m pytest tests/test_ops/test_apa.py -k layout -x': 'tests',
    'python tools/train.py CONFIG --amp': "MMEngine's AmpOptimWrapper wants a GPU",
    'NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG 8': 'test_distributed.py, two on one machine',
    'NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 tools/dist_train.sh CONFIG 8': 'the same',
    'GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR': 'needs Slurm',
    'mkdir -p data/coco && cd data/coco': 'before downloads of 19 GB',
    **{
        f'curl -O http://images.cocodataset.org/{file}.zip': 'downloads'
        for file in ('zips/train2017', 'zips/val2017', 'annotations/annotations_trainval2017')
    },
    'ln -s ../coco/train2017 ../coco/val2017 data/lvis_v1/': 'after them',
}


def test_every_command_of_the_pages_is_listed_here():
    tutorial = ROOT / 'docs/customize_activation.md'
    written = {command for page in PAGES if page != tutorial for command in commands(page.read_text())}
    assert written == {*FIRST, *OTHERS, *NOT_HERE}


@pytest.mark.parametrize('page', [str(page.relative_to(ROOT)) for page in PAGES])
def test_the_links_of_a_page_lead_to_files(page):
    targets = re.findall(r'\]\(([^)#\s]+)', (ROOT / page).read_text())
    local = [target for target in targets if '://' not in target]
    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize('page', [str(page.relative_to(ROOT)) for page in PAGES])
def test_the_paths_that_a_page_names_exist(page):
    """Files of the package, the tools and the tests; the tutorial names those that it makes."""
    text = re.sub(r'^```.*?^```$', '', (ROOT / page).read_text(), flags=re.M | re.S)
    paths = set(re.findall(r'`((?:apa_mmdet|benchmarks|configs|tests|tools)/[\w./-]+)`', text))
    missing = {path for path in paths if not (ROOT / path).exists()}
    assert {path for path in missing if 'smu' not in path} == set()


@pytest.mark.slow
def test_the_hook_of_the_faq_logs_a_validation_loss_beside_an_equal_training(tmp_path, tiny_data, monkeypatch):
    hook, settings = re.findall(r'^```python\n(.*?)^```$', (ROOT / 'docs/faq.md').read_text(), re.M | re.S)
    (tmp_path / 'validation_loss.py').write_text(hook)
    monkeypatch.syspath_prepend(tmp_path)
    values, weights, data = {}, [], tiny_data(train=4, val=2, size=(96, 72))
    exec(settings, values)
    importlib.import_module(values['custom_imports']['imports'][1])
    loader, loss = values['loss_dataloader'], dict(_delete_=True, type='SeesawLoss', num_classes=48)
    dataset = dict(type='LVISV1Dataset', data_root=str(data), ann_file='annotations/lvis_v1_val.json', metainfo=None)
    loader['dataset'].update(dataset, data_prefix=dict(img=''))
    loader.update(num_workers=0)
    for hooks in ([], values['custom_hooks']):
        cfg = tinier(data, tmp_path / f'{len(hooks)}', **{'model.roi_head.bbox_head.loss_cls': loss})
        cfg.custom_hooks = hooks
        runner = Runner.from_cfg(cfg)
        runner.train()
        weights.append(runner.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert re.search(r'validation loss: \d+\.\d{4}', log_of(tmp_path / '1'))


def run(command, added, clone):
    for place, file in PLACES.items():
        command = re.sub(rf'(?<![\w/.-]){re.escape(place)}(?![\w/.-])', file, command)
    return in_a_copy(clone, f'{command} {added}')


@pytest.fixture(scope='module')
def clone(tmp_path_factory, tiny_data):
    """A copy of the repository with small data, weights and a run in it."""
    folder = tmp_path_factory.mktemp('docs') / 'apa_mmdet'
    skipped = shutil.ignore_patterns('.git', '.venv*', 'data', 'work_dirs', 'pretrained', 'build', '__pycache__')
    shutil.copytree(ROOT, folder, symlinks=True, ignore=skipped)
    for form, link in (('lvis_v1', 'lvis_v1'), ('v3det', 'V3Det')):
        shutil.copytree(tiny_data(form), folder / f'data/tiny_{form}')
        (folder / 'data' / link).symlink_to(f'tiny_{form}')
    init_default_scope('mmdet')
    detector = MODELS.build(Config.fromfile(ROOT / 'configs/lvis/mask_rcnn_se_r50_apa.py').model)
    backbone = detector.backbone.state_dict()
    official = {theirs: backbone[ours] for ours, theirs in translate_names(backbone, to_official=True).items()}
    for weights, file in (
        (detector.state_dict(), 'work_dirs/mask_rcnn_se_r50_apa/epoch_24.pth'),
        (backbone, 'pretrained/se_resnet50_apa.pth'),
        (official, 'se_resnet50.pth'),
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=weights), folder / file)
    for command, added in FIRST.items():
        run(command, added, folder)
    weights = load_as_data(folder / PLACES['CHECKPOINT'])['state_dict']
    official = {theirs: weights[ours] for ours, theirs in translate_names(weights, to_official=True).items()}
    torch.save(dict(state_dict=official), folder / PLACES['IN'])
    as_custom_dataset(folder / 'data/tiny_coco', folder / 'data/own')
    run('python tools/test.py CONFIG CHECKPOINT', f'--out a.pkl {KEPT}', folder)
    shutil.copy(folder / 'a.pkl', folder / 'b.pkl')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('command', OTHERS)
def test_a_command_of_the_pages_runs(command, clone):
    run(command, OTHERS[command], clone)


@pytest.mark.slow
def test_the_python_block_of_the_readme_runs(clone):
    (code,) = re.findall(r'^```python\n(.*?)^```$', (ROOT / 'README.md').read_text(), re.M | re.S)
    (clone / 'quickstart.py').write_text(code.replace('epoch_5', 'epoch_1').replace('score_thr=0.3', 'score_thr=0'))
    assert 'tensor([' in run('python quickstart.py', '', clone)
