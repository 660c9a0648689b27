import pytest
from mmengine.logging import MMLogger


@pytest.fixture(autouse=True)
def run_folder(tmp_path_factory):
    """Folder of the log of a run."""
    folder = tmp_path_factory.mktemp('run')
    MMLogger.get_instance(str(folder), log_file=str(folder / 'run.log'))
    yield folder
    MMLogger._instance_dict.pop(str(folder))
