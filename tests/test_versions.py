"""Saved folders under each version of transformers that the component is tested with, without this package."""

import runpy
from importlib import metadata
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parent.parent / "scripts" / "check_versions.py"
VERSIONS = runpy.run_path(str(SCRIPT))
INSTALLED = metadata.version("transformers")
COMPONENT = SCRIPT.parent.parent / "modeling_gpt_embeddings.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return folder, VERSIONS["make_folders"](folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter of ONNX warns of itself
@pytest.mark.parametrize("version", ["4.57.6", INSTALLED])  # the script runs all of them
def test_component(version, saved, tmp_path):
    folder, expected = saved
    output = tmp_path / "output"
    try:
        found = VERSIONS["check_component"](version, tmp_path, folder, output)
    except VERSIONS["NotReachableError"] as error:
        pytest.skip(f"the wheels of transformers {version} cannot be downloaded: {error}")
    assert found["transformers"] == version
    assert VERSIONS["compare"](found, expected) == []
    assert VERSIONS["check_again"](output, expected) == []
    if version == INSTALLED:  # what a remote copy saves is as complete
        for name in ("learned", "sinusoidal", "none", "weighted", "head"):
            for path in (folder / name).iterdir():
                assert (output / name / path.name).read_bytes() == path.read_bytes(), path


def test_the_component_names_the_versions():
    for name in ("configuration_gpt_embeddings.py", "modeling_gpt_embeddings.py"):
        text = (COMPONENT.parent / name).read_text(encoding="utf-8")
        assert all(version in text for version in VERSIONS["TRANSFORMERS"])


def test_a_missing_part_of_transformers_names_the_versions(monkeypatch):
    monkeypatch.delattr("transformers.PretrainedConfig")
    monkeypatch.delattr("transformers.configuration_utils.PretrainedConfig")
    with pytest.raises(ImportError, match=r"version, \d.*tested with 4\.57\.6 to 5\.24\.0"):
        runpy.run_path(str(COMPONENT.with_name("configuration_gpt_embeddings.py")))
