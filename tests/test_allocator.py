"""Freed memory stays with the process, once it is asked to."""

import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import numpy as np
{first}
np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(5_000_000)  # 40 MB
print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
COMMAND = """
import contextlib, secateur.cli
sys.argv = ["secateur", "--version"]
with contextlib.suppress(SystemExit):
    secateur.cli.main()
"""


def faults(first):
    code = MEASURE.format(first=first)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(ran.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_kernel_need_not_clear_the_same_pages_again():
    as_it_comes = faults("")
    assert (
        10 * faults("from secateur.allocator import keep_freed_memory as keep; assert keep()") < as_it_comes
    )
    assert 10 * faults(COMMAND) < as_it_comes  # the command line does it
    assert 10 * faults("import secateur as sc; sc.Run; sc.zoo.digits") > as_it_comes  # a library does not
