from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = {}
exec((root / 'apa_mmdet' / 'version.py').read_text(), version)

setup(
    name='apa_mmdet',
    version=version['__version__'],
    description='Adaptive Parametric Activation for MMDetection',
    long_description=(root / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['apa_mmdet', 'apa_mmdet.*']),
    package_data={'apa_mmdet.ops': ['*.c']},  # compiled on first use
    python_requires='>=3.10',
    # The ranges of apa_mmdet/compat.py. torch and mmcv have to match each other and the machine's
    # accelerator: install them first.
    install_requires=[
        'torch>=2.1',
        'mmengine>=0.10.0,<1.0',
        'mmcv>=2.0.0,<2.2.0',
        'mmdet>=3.3.0,<4.0',
        'lvis>=0.5.3',
        'faster-coco-eval>=1.8',  # FastLVISMetric
        'numpy',
        'pycocotools',
        'tqdm',
        'setuptools<81',  # mmengine and mmcv import pkg_resources
    ],
    extras_require=dict(
        triton=['triton>=2.1'],  # torch's CUDA builds bring it
        tests=['pytest', 'hypothesis', 'psutil', 'onnx', 'onnxruntime', 'onnxscript'],
    ),
)
