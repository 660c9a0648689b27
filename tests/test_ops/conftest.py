import pytest


@pytest.fixture(scope='session')
def stub(tmp_path_factory):
    """The library in the place of CUDA's driver."""
    from helpers.stub_driver import compile_stub

    return compile_stub(tmp_path_factory.mktemp('stub'))
