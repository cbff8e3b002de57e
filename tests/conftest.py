"""One thread a process: the problems are tiny, and pytest-xdist brings the processes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported
