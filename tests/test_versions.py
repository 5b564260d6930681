"""Saved folders under the oldest version of transformers that the component is tested with, without this package."""

import runpy

import pytest
from command import ROOT


COMPONENT = [ROOT / f"{name}_gpt_embeddings.py" for name in ("configuration", "modeling")]
VERSIONS = runpy.run_path(str(ROOT / "scripts" / "check_versions.py"))
OLDEST = next(iter(VERSIONS["TRANSFORMERS"]))  # the script runs all of them


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter of ONNX warns of itself
def test_the_component_works_with_the_oldest_transformers(tmp_path):
    for name in ("saved", "wheels"):
        (tmp_path / name).mkdir()
    expected = VERSIONS["make_folders"](tmp_path / "saved")
    output = tmp_path / "output"
    try:
        found = VERSIONS["check_component"](OLDEST, tmp_path / "wheels", tmp_path / "saved", output)
    except VERSIONS["NotReachableError"] as error:
        pytest.skip(f"the wheels of transformers {OLDEST} cannot be downloaded: {error}")
    assert found["transformers"] == OLDEST
    assert VERSIONS["compare"](found, expected) == []
    assert VERSIONS["check_again"](output, expected) == []
    for name in ("learned", "sinusoidal", "none", "weighted", "head"):  # what a remote copy saves is as complete
        assert found[f"{name} saved"] == sorted(path.name for path in (tmp_path / "saved" / name).iterdir())


def test_a_missing_part_of_transformers_names_the_versions(monkeypatch):
    for path in COMPONENT:
        assert f"{OLDEST} to {list(VERSIONS['TRANSFORMERS'])[-1]}" in path.read_text(encoding="utf-8")
    monkeypatch.delattr("transformers.PretrainedConfig")
    monkeypatch.delattr("transformers.configuration_utils.PretrainedConfig")
    with pytest.raises(ImportError, match=r"version, \d.*tested with 4\.57\.6 to 5\.24\.0"):
        runpy.run_path(str(COMPONENT[0]))
