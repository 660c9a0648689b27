import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

torchrun_arguments = runpy.run_path(str(ROOT / 'tools/launch.py'))['torchrun_arguments']
CONFIG = str(ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py')


def test_one_machine_takes_a_free_port_and_the_tool_its_options():
    arguments = torchrun_arguments('train', [CONFIG, '2', '--resume', 'auto'], dict(PORT='29500'))
    assert arguments[:3] == ['--standalone', '--local-addr=127.0.0.1', '--nproc-per-node=2']
    assert arguments[-6:] == [str(ROOT / 'tools/train.py'), CONFIG, '--launcher', 'pytorch', '--resume', 'auto']


def test_several_machines_take_mmdets_variables():
    machines = dict(NNODES='3', NODE_RANK='1', MASTER_ADDR='10.0.0.1')
    assert torchrun_arguments('test', [CONFIG, CONFIG, '8'], machines)[:5] == [
        '--nnodes=3',
        '--node-rank=1',
        '--master-addr=10.0.0.1',
        '--master-port=29500',
        '--nproc-per-node=8',
    ]
    assert '--master-port=4000' in torchrun_arguments('train', [CONFIG, '8'], dict(machines, PORT='4000'))


def ends_with_one_line(script, arguments, machines, line):
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    run = subprocess.run(
        ['bash', ROOT / f'tools/dist_{script}.sh', *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ, PATH=path, **machines),
    )
    assert run.returncode == 1 and run.stdout == ''
    assert run.stderr.startswith(line) and run.stderr.count('\n') == 1


@pytest.mark.parametrize(
    'script, arguments, machines, line',
    [
        ('train', [CONFIG], {}, 'usage: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]'),
        ('train', ['nowhere.py', '2'], {}, 'missing: nowhere.py, given as CONFIG; usage: tools/dist_train.sh'),
        (
            'test',
            [CONFIG, 'nowhere.pth', '2'],
            {},
            'missing: nowhere.pth, given as CHECKPOINT; usage: tools/dist_test.sh',
        ),
        ('train', [CONFIG, 'two'], {}, "PROCESSES, how many to start on this machine, must be 1 or more, got 'two'"),
        (
            'train',
            [CONFIG, '2'],
            dict(NNODES='2'),
            'with NNODES=2 machines set NODE_RANK too, the number of this machine',
        ),
        ('train', [CONFIG, '2'], dict(NNODES='2', NODE_RANK='1'), 'with NNODES=2 machines set MASTER_ADDR too'),
        ('train', [CONFIG, '2'], dict(NNODES='zwei'), "NNODES, how many machines, must be a whole number, got 'zwei'"),
        (
            'train',
            [CONFIG, '2'],
            dict(NNODES='2', NODE_RANK='-1'),
            'NODE_RANK, the number of this machine, from 0 on, must be a whole number, got',
        ),
        (
            'train',
            [CONFIG, '2'],
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='http'),
            "PORT, a free port of machine 0, must be a whole number, got 'http'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(script, arguments, machines, line):
    ends_with_one_line(script, arguments, machines, line)


def test_a_port_that_another_program_has():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        machines = dict(NNODES='2', NODE_RANK='0', MASTER_ADDR='127.0.0.1', PORT=str(taken.getsockname()[1]))
        ends_with_one_line('train', [CONFIG, '1'], machines, 'the machines cannot meet at MASTER_ADDR and PORT: ')
