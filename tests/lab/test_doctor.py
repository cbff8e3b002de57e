"""The doctor: what this machine offers, and a store that is only looked at."""

import torch

from secateur.lab.doctor import examine


def found(store):
    return {check.what: check for check in examine(store)}


def test_it_tells_versions_and_what_auto_stands_for(tmp_path):
    checks = found(tmp_path)
    assert all(check.ok for check in checks.values())
    assert checks["torch"].found == torch.__version__
    assert checks['precision "auto"'].found in ("fp32", "bf16")
    assert checks["threads"].found == str(torch.get_num_threads())


def test_nothing_is_left_behind(tmp_path):
    store = tmp_path / "a" / "b"
    assert found(store)["store"].ok
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    for store in (tmp_path / "file", tmp_path / "file" / "below"):
        check = found(store)["store"]
        assert not check.ok
        assert "cannot be written" in check.found
        assert "--store" in check.found
