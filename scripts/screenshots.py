"""Make the pictures of the README and of docs/explore.md: `python scripts/screenshots.py [--only NAME]`.

The page is that of `gpt-embeddings explore`, served here and driven in headless Chromium. No trained GPT is at hand
everywhere, so the tables "after" are made on the spot from the text of Python's own documentation: which tokens stand
near which, as positive pointwise mutual information, reduced to 64 dimensions (what word2vec does implicitly; Levy and
Goldberg 2014). It takes a minute and needs no network.
"""

import argparse
import pydoc_data.topics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_array
from sklearn.utils.extmath import randomized_svd
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, encode_flat, load_tokenizer
from gpt_embeddings.explore.page import launch_page
from gpt_embeddings.explore.shown_models import Subject


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from browser import Watched, open_browser


IMAGES = Path(__file__).parent.parent / "docs" / "images"
N_EMBD, WINDOW, ITERATIONS = 64, 4, 4
MIN_COUNT = 10  # rarer tokens keep their fresh rows: their counts say little
MAX_BYTES = 200_000

WORDS = "list, tuple, string, integer, True, False, None, class, method, function, instance, exception, module, import"


def count_tables(tokenizer: PreTrainedTokenizerBase) -> tuple[GPTEmbeddingsModel, GPTEmbeddingsModel]:
    """Return a fresh model, and the same one with a token table made from counts."""
    torch.manual_seed(0)
    config = GPTEmbeddingsConfig(n_embd=N_EMBD, n_positions=256, position_initializer_range=0.01)
    before, after = GPTEmbeddingsModel(config).eval(), GPTEmbeddingsModel(config).eval()
    ids, _ = encode_flat(["\n".join(pydoc_data.topics.topics.values())], tokenizer)
    size = (config.vocab_size, config.vocab_size)
    counts = coo_array(size)
    for step in range(1, WINDOW + 1):  # near tokens count for more
        pairs = (np.full(len(ids) - step, 1 / step), (ids[:-step], ids[step:]))
        counts = counts + coo_array(pairs, shape=size)
    counts = (counts + counts.T).tocoo()
    often = np.bincount(ids, minlength=config.vocab_size) >= MIN_COUNT
    total, sums = counts.sum(), np.asarray(counts.sum(1)).ravel()
    scores = np.log(counts.data * total / (sums[counts.row] * sums[counts.col]))
    kept = (scores > 0) & often[counts.row] & often[counts.col]
    matrix = coo_array((scores[kept], (counts.row[kept], counts.col[kept])), shape=size).tocsr()
    left, sizes, _ = randomized_svd(matrix, N_EMBD, n_iter=ITERATIONS, random_state=0)
    table = normalize(torch.from_numpy(left * np.sqrt(sizes)).float(), dim=1)
    weight, seen = after.wte.weight.data, torch.from_numpy(often)
    weight[seen] = table[seen] * weight.norm(dim=1).mean()
    after.wpe.load_state_dict(before.wpe.state_dict())
    return before, after


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


def ask(watched: Watched, values: dict[str, str]) -> None:
    """Fill fields by their labels, ask, and wait for the answer."""
    for label, value in values.items():
        watched.page.get_by_label(label).locator("visible=true").first.fill(value)
    watched.page.get_by_role("button", name="Show").locator("visible=true").click()
    watched.page.wait_for_timeout(2500)


def main(only: Sequence[str]) -> None:
    """Make all pictures, or those named."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer()
    before, after = count_tables(tokenizer)
    subjects = [
        Subject("before: fresh tables", lambda: (before, tokenizer)),
        Subject("after: tables from counts on Python's documentation", lambda: (after, tokenizer)),
    ]
    alone = launch_page(
        [Subject("tables from counts on Python's documentation", lambda: (after, tokenizer))], block=False
    )
    both = launch_page(subjects, block=False)

    def wanted(name: str) -> bool:
        return not only or name in only

    with open_browser() as new_page:
        page = new_page()
        page.open(str(alone.local_url))
        if wanted("text"):
            save(page, "text", 1120)
        if wanted("map"):
            page.choose("Map", 1)
            ask(page, {"Words with commas": WORDS})
            save(page, "map", 990)
        if wanted("neighbours"):
            page.choose("Neighbours", 1)
            ask(page, {"Word (a)": "tuple"})
            save(page, "neighbours", 800)
        if wanted("positions"):
            page.choose("Positions", 5)
            save(page, "positions", 1080)
        if wanted("dense"):
            page.choose("Why dense", 1)
            save(page, "dense", 1180)
        if wanted("costs"):
            page.choose("Costs", 1)
            save(page, "costs", 1020)
        page.page.close()
        if wanted("compare"):
            page = new_page(width=1400)
            page.open(str(both.local_url), 2)
            page.choose("Neighbours", 2)
            ask(page, {"Word (a)": "tuple"})
            save(page, "compare", 900)
            page.page.close()
        if wanted("phone"):
            page = new_page(width=400, dark=True)
            page.open(str(alone.local_url))
            page.choose("Neighbours", 1)
            ask(page, {"Word (a)": "tuple"})
            save(page, "phone", 1120)
            page.page.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="names of pictures, such as map")
    main(parser.parse_args().only)
