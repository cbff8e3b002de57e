"""Every command of docs/scale.md is run here, but for those that it says were never run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
NEVER = ("ray up", "ray-address", "pip install")
COMMANDS = [
    re.sub(r"\s+#.*", "", line.removeprefix("$ "))
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
]
RUN = [command for command in COMMANDS if not any(word in command for word in NEVER)]

PLAN = """\
threads = 1
data = { use = "digits", test = 0.3, forget = { how = "class", classes = [3] } }
model = { use = "small-cnn" }
[[step]]
use = "train"
epochs = 1
[[step]]
use = "fine-tune"
as = "unlearn"
epochs = 1
[[audit]]
use = "accuracy"
"""


def test_what_is_not_run_here_is_told():
    assert len(RUN) == 6
    told = PAGE.split("## What was never run")[1]
    assert "`ray up`" in told
    assert "Slurm" in told
    assert "NCCL" in told
    assert "# never run by us" in PAGE


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_page(command, tmp_path, request):
    if "ray" in command:
        request.getfixturevalue("one_ray")
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "grid.toml").write_text(PLAN + "[grid]\nseed = [0, 1]\n")
    (tmp_path / ".secateur").mkdir()
    words = shlex.split(command)
    how = {"secateur": ("-m", "secateur"), "torchrun": ("-m", "torch.distributed.run", "--standalone")}
    done = subprocess.run(
        [sys.executable, *how[words[0]], *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if not {"--dry-run", "status"} & {*words}:
        runs = list(tmp_path.glob(".secateur/runs/*/record.json"))
        assert len(runs) == (2 if "grid" in words else 1)


def test_the_keys_of_the_page_are_keys_of_a_plan(tmp_path):
    from secateur.lab import read_plan

    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    import tomllib

    data = tomllib.loads(block)["data"]
    table = tomllib.loads(PLAN)
    read_plan({**table, "data": {**table["data"], **data}})
