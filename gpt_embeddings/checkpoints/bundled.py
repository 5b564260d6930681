"""The tables that come with the package: GPT-2's tokens, 256 dimensions, int8 rows.

    gpt-embeddings-english       English, distilled from all-MiniLM-L6-v2; taken where no model is named
    gpt-embeddings-portuguese    Portuguese and English, distilled from multilingual-e5-small

`scripts/train_default.py` and `scripts/train_portuguese.py` make them. Left out: loading them, which `loading` does as
with any saved model.
"""

import hashlib
from pathlib import Path


FOLDER = Path(__file__).parent
ENGLISH, PORTUGUESE = "gpt-embeddings-english", "gpt-embeddings-portuguese"
SHA256 = {  # of model.safetensors
    ENGLISH: "9ab7a98a5c7aee22aaa46c3d6975c80175ef27d92907fff2ac6a34ee5778c32b",
    PORTUGUESE: "016f48f4636bcb4cda78b261775e437d6b5c6045a6566c4d255f48c4071ad0cc",
}


def folder_of(name: str) -> Path:
    """Return where a bundled table is."""
    return FOLDER / name.removeprefix("gpt-embeddings-")


def find_bundled(name: str | None) -> str:
    """Return the folder of a bundled model for its name, of the English one for None, else the name as it is.

    Args:
        name: Folder or Hub name; a folder that has a bundled model's name is that folder.

    Raises:
        OSError: The package's own file is missing or damaged; the message says how to mend it.
    """
    if name is not None and (name not in SHA256 or Path(name).exists()):
        return name
    name = name or ENGLISH
    weights = folder_of(name) / "model.safetensors"
    try:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        found = f"none ({error})"
    if found != SHA256[name]:
        raise OSError(
            f"The table that comes with the package is missing or damaged: {str(weights)!r} has the sha256 {found}, "
            f"expected {SHA256[name]}. Mend it with `pip install --force-reinstall --no-deps gpt-embeddings`, or give "
            "another model."
        )
    return str(folder_of(name))
