"""The table that comes with the package: English, 256 dimensions, int8 rows, distilled from all-MiniLM-L6-v2.

`scripts/train_default.py` makes it. Left out: loading it, which `loading` does as with any saved model.
"""

import hashlib
from pathlib import Path


ENGLISH = "gpt-embeddings-english"
FOLDER = Path(__file__).parent / "english"
SHA256 = "9ab7a98a5c7aee22aaa46c3d6975c80175ef27d92907fff2ac6a34ee5778c32b"  # of model.safetensors


def find_shipped(name: str | None) -> str:
    """Return the folder of the shipped model for its name or for None, else the name as it is.

    Args:
        name: Folder or Hub name; a folder that has the shipped model's name is that folder.

    Raises:
        OSError: The package's own file is missing or damaged; the message says how to mend it.
    """
    if name is not None and (name != ENGLISH or Path(name).exists()):
        return name
    weights = FOLDER / "model.safetensors"
    try:
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        found = f"none ({error})"
    if found != SHA256:
        raise OSError(
            f"The table that comes with the package is missing or damaged: {str(weights)!r} has the sha256 {found}, "
            f"expected {SHA256}. Mend it with `pip install --force-reinstall --no-deps gpt-embeddings`, or give "
            "another model."
        )
    return str(FOLDER)


__all__ = ["ENGLISH", "FOLDER", "find_shipped"]
