"""Make the pictures of the README and of docs/explore.md: `python scripts/screenshots.py [--only NAME]`.

The page is that of `gpt-embeddings explore`, served here and driven in headless Chromium: the tables that come with
the package, and fresh tables beside the English one. It takes a minute and needs no network.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from gpt_embeddings import GPTEmbeddingsModel
from gpt_embeddings.analysis.word_lists import load_words
from gpt_embeddings.bundled import ENGLISH, PORTUGUESE
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.explore.page import launch_page
from gpt_embeddings.explore.views import LazyModel


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from browser import Watched, open_browser


IMAGES = Path(__file__).parent.parent / "docs" / "images"
MAX_BYTES = 200_000


def save(watched: Watched, name: str, height: int) -> None:
    """Take a picture of the top of a page, as small as PNG gets."""
    if watched.faults:
        raise SystemExit(f"{name}: {watched.faults}")
    page, path = watched.page, IMAGES / f"{name}.png"
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # 3-D scenes are drawn after their frame
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
        page.wait_for_timeout(700)
        page.screenshot(path=raw)
        picture = Image.open(raw).convert("RGB")
        picture.save(path, optimize=True)
        if path.stat().st_size > MAX_BYTES:
            picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    n_bytes = path.stat().st_size
    print(f"{path.name}: {picture.width} x {picture.height}, {n_bytes / 1000:.0f} kB")
    if n_bytes > MAX_BYTES:
        raise SystemExit(f"{path} has {n_bytes} bytes, more than {MAX_BYTES}; take a smaller part.")


def ask(watched: Watched, values: dict[str, str], button: str = "Show") -> None:
    """Fill fields by their labels, ask, and wait for the answer."""
    for label, value in values.items():
        watched.page.get_by_label(label).locator("visible=true").first.fill(value)
    watched.page.get_by_role("button", name=button).locator("visible=true").click()
    watched.page.wait_for_timeout(2500)


def main(only: Sequence[str]) -> None:
    """Make all pictures, or those named."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model_and_tokenizer()
    torch.manual_seed(0)
    fresh = GPTEmbeddingsModel(model.config).eval()
    models = [
        LazyModel("before: fresh tables", lambda: (fresh, tokenizer), load_words()),
        LazyModel(ENGLISH, lambda: (model, tokenizer), load_words()),
    ]
    alone = launch_page(models[1:])
    both = launch_page(models)

    def wanted(name: str) -> bool:
        return not only or name in only

    with open_browser() as new_page:
        page = new_page()
        page.open(str(alone.local_url))
        if wanted("text"):
            save(page, "text", 1120)
        if wanted("dense"):
            page.choose("Why dense", 1)
            save(page, "dense", 1180)
        page.page.close()
        if wanted("compare"):
            page = new_page(width=1400)
            page.open(str(both.local_url), 2)
            page.choose("Neighbours", 2)
            ask(page, {"Word (a)": "king"})
            save(page, "compare", 900)
            page.page.close()
        if wanted("vizinhos"):
            portuguese = launch_page([LazyModel.from_pretrained(PORTUGUESE)])
            page = new_page(locale="pt-BR")
            page.open(str(portuguese.local_url))
            page.choose("Vizinhos", 1)
            ask(page, {"Palavra (a)": "rei", "menos (b)": "homem", "mais (c)": "mulher"}, "Mostrar")
            save(page, "vizinhos", 860)
            page.page.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="names of pictures, such as text")
    main(parser.parse_args().only)
