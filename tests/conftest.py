import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before anything imports Triton: its kernels then run on the CPU


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)
