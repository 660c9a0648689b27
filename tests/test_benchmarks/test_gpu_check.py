"""`make gpu-check`: the runner with parts that fail, hang and run out of time; what comes back; what the bundle holds."""

import os
import random
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from helpers.paths import ROOT

GPU_CHECK = ROOT / 'benchmarks/gpu_check'
sys.path.insert(0, str(GPU_CHECK))

import bundle  # noqa: E402
import mmcv_operators  # noqa: E402
import parts  # noqa: E402
import pieces  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402

TABLE = 'name,backend,dtype,peak_mib,forward_backward_to_relu\n'


def script(folder, name, code):
    (folder / name).write_text(code)
    return str(folder / name)


def runner(folder, seconds=60.0, cpu=False):
    places = dict(bundle='', work=str(folder / 'work'), out=str(folder / 'results'), mmcv='')
    return run.Runner(places, folder / 'results', time.monotonic() + seconds, cpu)


def is_alive(pid):
    state = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith('Z')


def test_parts_that_fail_and_hang_do_not_keep_the_others_from_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, 'GRACE', 0.2)
    fails = script(tmp_path, 'fails.py', 'print("fine so far")\nraise ValueError("the tensor is 3|4")')
    child = f'import subprocess, sys, time; child = subprocess.Popen(["sleep", "60"]); open("{tmp_path}/pid", "w").write(str(child.pid)); sys.stdout.flush(); time.sleep(60)'
    hangs = script(tmp_path, 'hangs.py', child)
    passes = script(tmp_path, 'passes.py', f'open("{tmp_path}/results/backbone_cuda.csv", "w").write({TABLE!r})')
    chosen = [
        parts.Part('fails', 20, fails),
        parts.Part('hangs', 0.7, hangs),
        parts.Part('needs fails', 20, passes, needs=('fails',)),
        parts.Part('absent', 20, 'benchmarks/no_such_file.py'),
        parts.Part('passes', 20, passes),
    ]
    (tmp_path / 'out').mkdir()
    started = runner(tmp_path)
    assert not run.check(chosen, started, tmp_path / 'out', tmp_path / 'built', 'A title')
    states = {name: result.state for name, result in started.results.items()}
    assert states == {
        'fails': 'failed',
        'hangs': 'stopped',
        'needs fails': 'not run',
        'absent': 'not run',
        'passes': 'passed',
    }
    text = (tmp_path / 'out/report.md').read_text()
    assert (
        '| fails | **failed** |' in text
        and '| hangs | **stopped** |' in text
        and 'ValueError: the tensor is 3\\|4' in text
    )
    assert '| needs fails | not run | 0 | needs fails |' in text
    assert 'benchmarks/no_such_file.py is not in this checkout' in text
    assert not is_alive(int((tmp_path / 'pid').read_text())), 'what a stopped part started is stopped'
    with tarfile.open(tmp_path / 'out/results.tar.gz') as archive:
        assert {'logs/fails.log', 'backbone_cuda.csv'} <= set(archive.getnames())


def test_parts_after_the_deadline_are_named_in_the_report(tmp_path):
    passes = script(tmp_path, 'passes.py', '')
    started = runner(tmp_path, seconds=0)
    (tmp_path / 'out').mkdir()
    run.check([parts.Part('late', 20, passes)], started, tmp_path / 'out', tmp_path, 'A title')
    assert '| late | not run | 0 | no time left |' in (tmp_path / 'out/report.md').read_text()


def test_a_termination_from_outside_still_writes_the_report(tmp_path):
    hangs = script(
        tmp_path, 'hangs.py', f'import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)'
    )
    started = runner(tmp_path)
    (tmp_path / 'out').mkdir()
    before = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    passes = parts.Part('passes', 20, script(tmp_path, 'passes.py', ''))
    run.check([passes, parts.Part('hangs', 50, hangs)], started, tmp_path / 'out', tmp_path, 'A title')
    assert time.monotonic() - start < 20 and signal.getsignal(signal.SIGTERM) is before
    assert '| passes | passed |' in (tmp_path / 'out/report.md').read_text()


def test_a_table_that_was_cut_off_is_not_readable_and_everything_else_comes_back(tmp_path):
    cut = f'# torch: 2\n{TABLE}"ReLU, sigmoid gate",,float32,100,1\n"AGLU, APA gate",trit'
    parts_ = [
        parts.Part(
            'cuts', 20, script(tmp_path, 'cuts.py', f'open("{tmp_path}/results/backbone_cuda.csv", "w").write({cut!r})')
        ),
        parts.Part('passes', 20, script(tmp_path, 'passes.py', '')),
    ]
    (tmp_path / 'out').mkdir()
    assert run.check(parts_, runner(tmp_path), tmp_path / 'out', tmp_path / 'built', 'A title')
    text = (tmp_path / 'out/report.md').read_text()
    assert text.count('| not readable |') == 3 and '## backbone_cuda.csv\n\nnot readable: ' in text
    assert '| passes | passed |' in text and (tmp_path / 'out/results.tar.gz').exists()


def test_results_come_back_without_a_report(tmp_path):
    (tmp_path / 'out/report.part').mkdir(parents=True)  # in the place of the file
    passes = parts.Part('passes', 20, script(tmp_path, 'passes.py', ''))
    with pytest.raises(IsADirectoryError):
        run.check([passes], runner(tmp_path), tmp_path / 'out', tmp_path / 'built', 'A title')
    assert (tmp_path / 'out/results.tar.gz').exists()


def test_goals_without_figures_read_not_measured_and_others_show_the_worst(tmp_path):
    assert all(line.endswith('| not measured |') for line in report.goals(tmp_path)[2:])
    rows = '"AGLU, APA gate",triton-cpp,float32,50,0.9\n"ReLU, sigmoid gate",,float32,100,1\n'
    rows += '"AGLU, APA gate",triton-cpp,float16,30,1.2\n"AGLU, APA gate, launched from Python",triton,float32,50,1.1\n'
    (tmp_path / 'backbone_cuda.csv').write_text('# torch: 2\n' + TABLE + rows)
    columns = 'name,dtype,predicted_forward_bytes,forward_backward_to_silu,share_of_copy\n'
    small, large = 2**20, 2**28
    rows = f'aglu,float32,{large},1.05,0.9\naglu,float32,{large},1.2,0.7\naglu,float32,{small},9,0.1\nSiLU,float32,{large},1,1\n'
    (tmp_path / 'activations_cuda.csv').write_text(columns + rows)
    columns = 'name,forward_ms,forward_relu_ms,backward_ms,backward_relu_ms,note\n'
    rows = '"a site, from Python",0.2,0.1,0.4,0.1,\n"a site, from C++",0.08,0.1,0.1,0.1,\n'
    (tmp_path / 'host_cuda.csv').write_text(columns + rows)
    (tmp_path / 'step_cuda.csv').write_text('config,backend,to_first\napa,triton,1\nrelu,triton,0.95\n')
    measured = [line.split('|')[3].strip() for line in report.goals(tmp_path)[2:]]
    network = ['float32 0.90, float16 1.20 (triton-cpp)', 'float32 1.10 (triton)', 'float32 0.50']
    launches = 'from Python 3.00, from C++ 0.90'
    assert measured == ['float32 1.20', 'float32 0.70', *network, launches, '0.95 (triton)', 'not measured']
    (tmp_path / 'host_cuda.csv').write_text(f'{columns}"a site, from C++",,,,,no self-test\n')
    assert report.goals(tmp_path)[-3].endswith('| not measured |')


def test_large_files_come_back_whole_in_small_pieces(tmp_path):
    (tmp_path / 'key').mkdir()
    (tmp_path / 'out').mkdir()
    draw = random.Random(0)
    files = [tmp_path / 'key' / f'{name}.o' for name in 'abc']
    for path in files:
        path.write_bytes(draw.randbytes(200_000))
    written = pieces.pack(files, tmp_path, tmp_path / 'out', 'built.tar.gz', pieces=6, size=65_536)
    assert [path.stat().st_size for path in written[:-1]] == [65_536] * (len(written) - 1) and len(written) <= 6
    assert pieces.unpack(tmp_path / 'out', 'built.tar.gz', tmp_path / 'again') == ['key/a.o']  # two need 7 pieces
    assert (tmp_path / 'again/key/a.o').read_bytes() == files[0].read_bytes()
    written = pieces.pack(files, tmp_path, tmp_path / 'out', 'built.tar.gz', pieces=20, size=65_536)
    assert pieces.unpack(tmp_path / 'out', 'built.tar.gz', tmp_path / 'again') == ['key/a.o', 'key/b.o', 'key/c.o']
    assert [path.read_bytes() for path in sorted((tmp_path / 'again/key').iterdir())] == [p.read_bytes() for p in files]
    written[-1].unlink()
    with pytest.raises(ValueError, match='is damaged or its last piece is missing'):
        pieces.unpack(tmp_path / 'out', 'built.tar.gz', tmp_path / 'third')
    written[1].unlink()
    with pytest.raises(ValueError, match='a piece before built.tar.gz.* is missing'):
        pieces.unpack(tmp_path / 'out', 'built.tar.gz', tmp_path / 'third')


def test_nothing_that_comes_back_is_too_large_or_too_much():
    assert pieces.PIECE < 16 * 2**20
    assert (
        sum(part.limit for part in parts.PARTS if part.name in ('machine', 'prepare', 'activations', 'mmcv')) < 8.8 * 60
    )
    assert all(name in {part.name for part in parts.PARTS} for part in parts.PARTS for name in part.needs)


def test_the_bundle_carries_this_checkout_and_wheels_of_pinned_packages(tmp_path):
    bundle.pack_project(tmp_path / 'project.tar.gz')
    assert (tmp_path / 'commit').read_text().strip()
    with tarfile.open(tmp_path / 'project.tar.gz') as archive:
        names = set(archive.getnames())
    assert {'benchmarks/gpu_check/run.py', 'tests/data/apa_truth.npz', 'apa_mmdet/.mim/configs'} <= names
    assert not {'.venv', '.git'} & {name.split('/')[0] for name in names}
    assert (tmp_path / 'project.tar.gz').stat().st_size < 20e6


def test_the_bundle_carries_every_requirement_that_the_package_needs_and_machines_lack():
    packed = {line.partition('==')[0] for line in bundle.wheels()}
    assert {'mmengine', 'mmdet', 'msgspec', 'setuptools'} < packed and not {'torch', 'mmcv', 'pytest'} & packed
    assert {*bundle.THERE} <= {*bundle.pins()}, 'a requirement that is no more'


# mmcv's operators


@pytest.fixture
def source(tmp_path):
    """A source like mmcv's with two operators, of which one is in use."""
    csrc = tmp_path / 'mmcv-0' / mmcv_operators.SOURCES / 'pytorch'
    csrc.mkdir(parents=True)
    (tmp_path / 'mmcv-0/mmcv').mkdir(exist_ok=True)
    (csrc / 'nms.cpp').write_text('int nms(int x) { return x + 1; }\n')
    (csrc / 'knn.cpp').write_text('int knn(int x) { return x + 2; }\n')
    (csrc / 'pybind.cpp').write_text(
        'int nms(int); int knn(int);\nextern "C" int call(int which) { return which ? nms(1) : knn(1); }\n'
    )
    return tmp_path / 'mmcv-0'


def build_of(source, tmp_path):
    tools = mmcv_operators.Toolchain(['g++', '-fPIC'], None, ['g++', '-shared'], 'key')
    return mmcv_operators.Build(source, tmp_path / 'objects', tools)


def test_functions_that_were_not_compiled_are_stubs_and_the_others_work(source, tmp_path):
    import ctypes

    build = build_of(source, tmp_path)
    paths = mmcv_operators.files_of(source, cuda=False, every=False)
    assert {path.name for path in paths} == {'nms.cpp', 'pybind.cpp'}
    far = time.monotonic() + 1000
    assert [build.compile(path, far) for path in paths] == ['compiled'] * 2
    assert [build.compile(path, far) for path in paths] == ['kept'] * 2, 'an interrupted build continues'
    every = mmcv_operators.files_of(source, cuda=False, every=True)
    library = build.link(every)
    assert ctypes.CDLL(str(library)).call(1) == 2
    code = f'import ctypes; ctypes.CDLL({str(library)!r}).call(0)'
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.returncode and 'mmcv: knn is not in this build' in ended.stderr
    assert [build.compile(path, far) for path in every].count('compiled') == 1
    assert ctypes.CDLL(str(build.link(every).rename(tmp_path / 'all.so'))).call(0) == 3


def test_a_file_that_does_not_compile_is_named_with_its_error(source, tmp_path):
    build = build_of(source, tmp_path)
    bad = source / mmcv_operators.SOURCES / 'pytorch/nms.cpp'
    bad.write_text('int nms(int x) { return y; }\n')
    assert build.compile(bad, time.monotonic() + 100) == 'failed'
    assert "error: 'y' was not declared" in mmcv_operators.first_error(build.failed[bad]).replace('‘', "'").replace(
        '’', "'"
    )
    assert build.compile(source / mmcv_operators.SOURCES / 'pytorch/knn.cpp', time.monotonic()) == 'no time'
    assert not list(build.folder.iterdir())


def test_torch_for_a_cpu_and_another_cuda_are_refused(tmp_path, monkeypatch):
    with pytest.raises(mmcv_operators.Failure, match='torch is built for the CPU'):
        mmcv_operators.cuda_home(None)
    nvcc = tmp_path / 'bin/nvcc'
    nvcc.parent.mkdir()
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.1"\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    assert mmcv_operators.cuda_home('12.6') == tmp_path
    with pytest.raises(mmcv_operators.Failure, match='is of CUDA 12, torch of 13.0'):
        mmcv_operators.cuda_home('13.0')


@pytest.mark.slow
def test_a_rehearsal_without_a_gpu_runs_every_part_that_can(tmp_path):
    command = [sys.executable, GPU_CHECK / 'run.py', '--cpu', '--work', tmp_path, '--minutes', '20']
    names = [part.name for part in parts.PARTS if part.cpu is not None and part.name != 'prepare']
    done = subprocess.run([*map(str, command), '--parts', *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert (tmp_path / 'out/report.md').exists()
