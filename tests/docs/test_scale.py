"""Every command of docs/scale.md is run here, but for those that it says were never run."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
NEVER = re.compile(r"# (never run|not run by the tests)")
LINES = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
RUN = [re.sub(r"\s+#.*", "", line.removeprefix("$ ")) for line in LINES if not NEVER.search(line)]

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
    assert "`cluster.yaml`" in told
    kinds = {command.split()[0] for command in RUN}
    assert kinds == {"secateur", "torchrun"}, "what these tests can run, and nothing that they cannot"
    assert not any("--ray-address" in command for command in RUN)


def test_ray_takes_the_file_for_a_cluster():
    ray = pytest.importorskip("ray.autoscaler._private.util")
    yaml = pytest.importorskip("yaml")
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    made = ray.prepare_config(yaml.safe_load(block))
    ray.validate_config(made)
    nodes = made["available_node_types"].values()
    assert sum(node["min_workers"] for node in nodes) == len(made["provider"]["worker_ips"])
    starts = made["head_start_ray_commands"] + made["worker_start_ray_commands"]
    assert all(command.startswith("/shared/venv/bin/ray st") for command in starts)
    with pytest.raises(Exception, match="Additional properties"):
        ray.validate_config(made | {"workers": 2})


def test_what_slurm_is_asked_for():
    blocks = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) if "#SBATCH" in block]
    assert len(blocks) == 2
    for block in blocks:
        (gpus,) = re.findall(r"--gres=gpu:(\d+)", block)
        assert f"--nproc-per-node {gpus} " in block
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_a_data_set_of_dictionaries_is_refused_as_the_page_says():
    import datasets

    import secateur as sc
    from secateur.errors import DataError

    rows = datasets.Dataset.from_dict({"x": [[0.0, 1.0]] * 4, "y": [0, 1] * 2})
    for memory in ("auto", "mapped"):
        with pytest.raises(DataError, match=r"to be a pair \(x, y\), got dict"):
            sc.Split.of(rows, forget=[0], memory=memory)


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


def test_the_benchmark_prints_for_people_what_was_saved_and_which_way_a_goal_lies():
    path = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    scaling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scaling)
    told = {"benchmark": "grid", "ratio": 1.093, "goal": 1.15, "bound": scaling.MOST, "saved": 0.741}
    assert scaling.row(told).split() == ["grid", "1.093", "at", "most", "1.15", "74%"]
    told = {"benchmark": "jobs", "ratio": 1.85, "goal": 1.6, "bound": scaling.LEAST}
    assert scaling.row(told).split() == ["jobs", "1.850", "at", "least", "1.60", "-"]
    told = {"benchmark": "memory", "ratio": 3.8, "goal": None, "bound": None}
    assert scaling.row(told).split() == ["memory", "3.800", "-", "-"]


@pytest.mark.slow
def test_the_benchmark_runs():
    """The shortest of its measures: a table with a head and a row, whatever the number is here."""
    path = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
    done = subprocess.run(
        [sys.executable, path, "--only", "step"], capture_output=True, text=True, check=True
    )
    head, row = done.stdout.splitlines()
    assert head.split() == ["benchmark", "ratio", "goal", "saved"]
    assert "at most 1.00" in row


def test_the_keys_of_the_page_are_keys_of_a_plan(tmp_path):
    from secateur.lab import read_plan

    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    import tomllib

    data = tomllib.loads(block)["data"]
    table = tomllib.loads(PLAN)
    read_plan({**table, "data": {**table["data"], **data}})
