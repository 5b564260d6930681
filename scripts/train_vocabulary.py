"""Train a byte-level BPE vocabulary in GPT-2's form for one or more languages, and save it as a tokenizer.

text        files with one text a line; each `--text` is one language, and all languages weigh the same
form        GPT-2's pattern and bytes, `<|endoftext|>` last, on the canonical form of the bundled tables: lower case
            after a space (`--cased`: GPT-2's own form)
balance     the most frequent words of each language are to be single tokens, with the space before them. Words that
            are too rare in the text for that are counted more often, until the share of `--share` is reached

pip install -e .
python scripts/train_vocabulary.py --text pt/*.txt --text en/*.txt --words words.pt.txt --words words.en.txt \
    --output TOKENIZER

A table for it: `GPTEmbeddingsConfig(vocab_size=len(tokenizer))`, or `gpt-embeddings train distil --tokenizer`.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gpt_embeddings.text.tokenizer import CANONICAL_FORM


END_OF_TEXT = "<|endoftext|>"
BYTES, SPACE = 256, "Ġ"
WORD = re.compile(r"[^\W\d_]+")
COUNTED = 3_000_000  # words of each language that the trainer sees
FLOORS = (0, 8, 16, 32, 64, 128, 256)  # how often a frequent word is counted at least
AT_ONCE = 1000  # repetitions of a word in one string


def main() -> None:
    """Count words, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", type=Path, nargs="+", action="append", required=True, help="UTF-8 files of one language; repeatable"
    )
    parser.add_argument(
        "--words",
        type=Path,
        action="append",
        help="file of one language's words, most frequent first; once for each --text (default: counted in the text)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--vocab-size", type=int, default=50_257)
    parser.add_argument("--frequent", type=int, default=10_000, help="words of each language that should be tokens")
    parser.add_argument("--share", type=float, default=0.95, help="share of them that must be")
    parser.add_argument("--cased", action="store_true", help="keep capitals, line ends and a text's first word")
    options = parser.parse_args()
    try:
        tokenizer, shares = train(
            [read_lines(files) for files in options.text],
            None if options.words is None else [list(read_lines([file])) for file in options.words],
            vocab_size=options.vocab_size,
            frequent=options.frequent,
            share=options.share,
            form={} if options.cased else CANONICAL_FORM,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    save(tokenizer, options.output)
    listed = ", ".join(f"{share:.1%}" for share in shares)
    print(f"{tokenizer.get_vocab_size():,} entries; frequent words that are one token, by language: {listed}")


def read_lines(files: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of UTF-8 files."""
    for file in files:
        try:
            yield from file.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error}") from error


def train(
    texts: list[Iterable[str]],
    words: list[list[str]] | None = None,
    *,
    vocab_size: int = 50_257,
    frequent: int = 10_000,
    share: float = 0.95,
    form: dict[str, object] = CANONICAL_FORM,
) -> tuple[Tokenizer, list[float]]:
    """Return the tokenizer, and each language's share of frequent words that are single tokens.

    Args:
        texts: The texts of each language.
        words: Words of each language, most frequent first; None counts them in the texts.
        vocab_size: Entries with `<|endoftext|>`.
        frequent: How many of the words should be single tokens.
        share: Share of them that must be.
        form: Normalizer and pre-tokenizer as fields of `tokenizer.json`; GPT-2's where they are missing.

    Raises:
        ValueError: The vocabulary is smaller than the bytes, a language has no words, the lists do not match the
            texts, or the text or the size does not suffice; the message names the numbers.
    """
    if vocab_size <= BYTES + 1:
        raise ValueError(f"`vocab_size` must be above {BYTES + 1} (the bytes and {END_OF_TEXT}), got {vocab_size}.")
    if words is not None and len(words) != len(texts):
        raise ValueError(f"There are {len(texts)} languages in `--text` and {len(words)} in `--words`: give one each.")
    blank = untrained(form)
    counts = [Counter(piece for line in lines for piece in split(blank, line)) for lines in texts]
    for i, counted in enumerate(counts, start=1):
        if not counted:
            raise ValueError(f"The text of language {i} has no words.")
    decoder, wanted = decoders.ByteLevel(), []
    for i, counted in enumerate(counts):
        if words is None:
            spaced = (piece for piece, _ in counted.most_common() if piece.startswith(SPACE))
            pieces = [piece for piece in spaced if WORD.fullmatch(decoder.decode([piece]).strip())]
        else:
            pieces = ["".join(split(blank, f" {word}")) for word in words[i] if WORD.fullmatch(word)]
        wanted.append(list(dict.fromkeys(pieces))[:frequent])
    for floor in FLOORS:
        tokenizer = fit(form, counts, wanted, floor, vocab_size)
        if (size := tokenizer.get_vocab_size()) < vocab_size:
            raise ValueError(f"This text fills {size:,} of {vocab_size:,} entries: give more text, or that size.")
        shares = [sum(tokenizer.token_to_id(word) is not None for word in some) / len(some) for some in wanted]
        if min(shares) >= share:
            return tokenizer, shares
    listed = ", ".join(f"{one:.1%}" for one in shares)
    raise ValueError(
        f"With {vocab_size:,} entries, the shares of the {frequent:,} most frequent words that are one token are "
        f"{listed}; {share:.0%} was asked. Raise `vocab_size`, or lower `frequent` or `share`."
    )


def untrained(form: dict[str, object]) -> Tokenizer:
    """Return a byte-level tokenizer without merges, which splits texts as GPT-2 does, in a form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), **form}))


def split(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the pieces of a text within which merges happen, in GPT-2's characters for bytes."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def fit(
    form: dict[str, object], counts: list[Counter[str]], wanted: list[list[str]], floor: int, vocab_size: int
) -> Tokenizer:
    """Train on counted pieces, all languages alike, with the wanted ones counted `floor` times at least."""
    together: Counter[str] = Counter()
    for counted, words in zip(counts, wanted, strict=True):
        scale = COUNTED / counted.total()
        scaled = {piece: round(n * scale) for piece, n in counted.items()}
        together.update(scaled | {word: max(scaled.get(word, 0), floor) for word in words})

    def repeated() -> Iterator[str]:
        for piece, n in together.items():
            for i in range(0, n, AT_ONCE):
                yield f"{piece} " * min(AT_ONCE, n - i)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pieces are in characters for bytes: no spaces
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(repeated(), trainer)
    blank = json.loads(untrained(form).to_str())
    tokenizer = Tokenizer.from_str(json.dumps({**blank, "model": json.loads(tokenizer.to_str())["model"]}))
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, n_positions: int = 1024) -> None:
    """Save a tokenizer as transformers does, but `tokenizer.json` without indentation, at a third of the size."""
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        add_prefix_space=json.loads(tokenizer.to_str())["pre_tokenizer"]["add_prefix_space"],
        model_max_length=n_positions,
    )
    whole.save_pretrained(folder)
    file = folder / "tokenizer.json"
    compact = json.dumps(json.loads(file.read_text(encoding="utf-8")), ensure_ascii=False, separators=(",", ":"))
    file.write_text(compact, encoding="utf-8")


if __name__ == "__main__":
    main()
