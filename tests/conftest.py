"""One thread a process: the problems are tiny, and pytest-xdist brings the processes."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported
os.environ["HF_HUB_OFFLINE"] = "1"  # read by datasets: no test waits for a network


@pytest.fixture
def one_ray():
    """One test at a time starts Ray, in whichever process: a second head on a machine may not come up."""
    with Path(tempfile.gettempdir(), f"secateur-ray-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Decoded images of tests, and of the commands that they start, are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
