"""List the most frequent words of Portuguese and English, which the bundled tables search among.

A word's frequency is the mean of those in the texts of `train_portuguese.py` (`--texts-only` makes them) and in
subtitles (`hermitdave/FrequencyWords`). Words that only one of them has are left out, as they are mostly names and
mistakes, and so are words that are much more frequent in the other language.

python scripts/list_words.py --work WORK --output FOLDER
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from default_text import decode
from portuguese_text import PORTUGUESE_SOURCES
from train_default import fetch


LISTED = {"pt": 12_000, "en": 20_000}  # rarer Portuguese words are mostly split into tokens of other words
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
LETTERS = re.compile("[a-zà-öø-ÿ]{1,25}(?:-[a-zà-öø-ÿ]+)*")
ONE_LETTER = "aeoéài"
SUBTITLES = next(source for source in PORTUGUESE_SOURCES if source.name == "hermitdave/FrequencyWords")
FILES = {"pt": r"content/2018/pt(_br)?/pt(_br)?_50k\.txt", "en": r"content/2018/en/en_50k\.txt"}
RARE, RARE_NAME, SHORT = 2, 12, 50  # occurrences in the texts
FOREIGN, FOREIGN_IF_RARE = 20, 5  # times as frequent in the other language


def main() -> None:
    """Count, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with pt.txt and en.txt, for the sources")
    parser.add_argument("--output", type=Path, required=True, help="folder for words.pt.txt and words.en.txt")
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    options = parser.parse_args()
    counts = {}
    for language, files in FILES.items():
        with open(options.work / f"{language}.txt", encoding="utf-8") as texts:
            lower, capital = count(texts)
        subtitles: Counter[str] = Counter()
        for data in fetch(replace(SUBTITLES, files=files), options.work, options.repositories):
            pairs = (line.split(" ") for line in decode(data).split("\n") if " " in line)
            subtitles.update({word: int(n) for word, n in pairs})
        counts[language] = lower, capital, subtitles
    frequencies = {language: frequency(a + b, c) for language, (a, b, c) in counts.items()}
    for language, other in (("pt", "en"), ("en", "pt")):
        words = choose(*counts[language], frequencies[language], frequencies[other])[: LISTED[language]]
        (options.output / f"words.{language}.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")


def count(texts: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Count words, those in lower case or at the beginning of a text and those with a capital within it."""
    lower, capital = Counter[str](), Counter[str]()
    for text in texts:
        for i, word in enumerate(WORD.findall(text)):
            (capital if i and word[0].isupper() else lower)[word.lower()] += 1
    return lower, capital


def frequency(texts: Counter[str], subtitles: Counter[str]) -> dict[str, float]:
    """Return the mean of a word's shares in two counts."""
    words = texts.keys() | subtitles.keys()
    return {word: texts[word] / (2 * texts.total()) + subtitles[word] / (2 * subtitles.total()) for word in words}


def choose(
    lower: Counter[str],
    capital: Counter[str],
    subtitles: Counter[str],
    own: dict[str, float],
    other: dict[str, float],
) -> list[str]:
    """Return the words of a language, most frequent first."""

    def fits(word: str) -> bool:
        n = lower[word] + capital[word]
        least = {1: RARE if word in ONE_LETTER else n + 1, 2: SHORT}.get(len(word), RARE)
        foreign = other.get(word, 0) > (FOREIGN if n > SHORT else FOREIGN_IF_RARE) * own[word]
        is_rare_name = capital[word] > FOREIGN * lower[word] and n < RARE_NAME
        return bool(LETTERS.fullmatch(word) and subtitles[word] and n >= least and not foreign and not is_rare_name)

    return sorted(filter(fits, own), key=lambda word: (-own[word], word))


if __name__ == "__main__":
    main()
