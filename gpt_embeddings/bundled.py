"""The tables that come with the package: 50,257 tokens, 256 dimensions, int8 rows.

    gpt-embeddings-english       English, GPT-2's vocabulary, distilled from all-MiniLM-L6-v2; the default
    gpt-embeddings-portuguese    Portuguese and English, its own vocabulary, distilled from both teachers: that one
                                 and multilingual-e5-small

`scripts/train_default.py` and `scripts/train_portuguese.py` make them.
"""

from pathlib import Path


ENGLISH, PORTUGUESE = "gpt-embeddings-english", "gpt-embeddings-portuguese"
_folder = Path(__file__).parent / "checkpoints"
BUNDLED = {ENGLISH: _folder / "english", PORTUGUESE: _folder / "portuguese"}  # folders by name
NAMES = {str(folder): name for name, folder in BUNDLED.items()}
REINSTALL = (
    "Reinstall the package with `pip install --force-reinstall --no-deps gpt-embeddings`, or name another model."
)


def find_bundled(name: str | None) -> str:
    """Return the folder of a bundled table for its name or None (English), else, or if it is a folder, the name."""
    if name is not None and (name not in BUNDLED or Path(name).exists()):
        return name
    folder = BUNDLED[name or ENGLISH]
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"The bundled table {name or ENGLISH!r} is missing from {str(folder)!r}. {REINSTALL}")
    return str(folder)
