"""The word lists of a saved model: its files `words.LANGUAGE.txt`, one word a line, the most frequent first."""

from pathlib import Path

from gpt_embeddings.bundled import find_bundled


def load_words(name: str | None = None) -> dict[str, list[str]]:
    """Return the words of a model by language, for `Neighbours(model, tokenizer, words=load_words(name)["en"])`.

    Args:
        name: Folder of the model, or the name of a bundled table; None is the English one. A model without word lists
            gives an empty dictionary.
    """
    paths = sorted(Path(find_bundled(name)).glob("words.*.txt"))
    return {path.name.split(".")[1]: path.read_text(encoding="utf-8").splitlines() for path in paths}
