"""Saved models by name, with words for what is wrong with one.

Left out: checkpoints of other families (`gpt_embeddings.checkpoints.conversion`).
"""

from typing import Any

from safetensors import SafetensorError

from modeling_gpt_embeddings import GPTEmbeddingsModel


def load_model(name: str) -> GPTEmbeddingsModel:
    """Load a saved model for inference, and refuse one that random numbers would complete.

    Args:
        name: Folder or Hub name.

    Returns:
        The model, in evaluation mode.

    Raises:
        OSError: There is no such model.
        ValueError: It is broken, not one of ours, or lacks weights.
    """
    try:
        loaded: Any = GPTEmbeddingsModel.from_pretrained(name, output_loading_info=True)
    except OSError as error:
        raise OSError(f"No model at {name!r}: {error}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"The model at {name!r} is broken, or not one of ours: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"]))
        raise ValueError(f"The model at {name!r} lacks {missing}; random numbers would stand in. Save it again.")
    return model.eval()


__all__ = ["load_model"]
