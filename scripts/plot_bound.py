"""Draw how the loss of zero-layer GPTs falls towards the bound that their text sets, as an SVG.

    python scripts/plot_bound.py docs/images/loss_and_bound.svg

The text is the story in data/, in 500 tokens of its own. Each model sees all of it at every step; they differ in
`n_embd` alone. No model without layers comes below the bound, and one with `n_embd` from the vocabulary's size on can
reach it.
"""

import argparse
from pathlib import Path

import torch

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM, TokenWindows, load_tokenizer
from gpt_embeddings.training.bigrams import BigramCounts


STORY = Path(__file__).parent.parent / "data" / "the_tide_clerk.txt"
WIDTH, HEIGHT, MARGIN = 748, 400, 56  # of the picture
COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#08306b")  # more widths than these are not drawn
VOCAB_SIZE = 500


def main() -> None:
    """Train the models, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dims", type=int, nargs="+", default=[4, 16, 512])
    options = parser.parse_args()

    text = STORY.read_text(encoding="utf-8")
    tokenizer = load_tokenizer().train_new_from_iterator([text], VOCAB_SIZE, show_progress=False)
    windows = TokenWindows([text], tokenizer, max_length=64).to_dataset().with_format("torch")[:]
    inputs, targets = windows["input_ids"].long(), windows["target_ids"].long()
    counts = BigramCounts(VOCAB_SIZE)
    counts.add(inputs, targets)
    curves = {n_embd: train(inputs, targets, n_embd, options.steps) for n_embd in options.dims}
    for n_embd, losses in curves.items():
        print(f"n_embd {n_embd}: {losses[-1]:.3f} nats after {options.steps} steps; the bound is {counts.bound():.3f}")
    options.output.write_text(draw(curves, counts.bound()), encoding="utf-8")


def train(inputs: torch.Tensor, targets: torch.Tensor, n_embd: int, steps: int) -> list[float]:
    """Return the loss at every step."""
    torch.manual_seed(0)
    config = GPTEmbeddingsConfig(
        vocab_size=VOCAB_SIZE,
        n_embd=n_embd,
        n_positions=64,
        embd_pdrop=0.0,
        position_embedding_type="none",
        tie_word_embeddings=False,
    )
    model = GPTEmbeddingsForCausalLM(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    losses = []
    for _ in range(steps):
        loss = model(inputs, shift_labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def draw(curves: dict[int, list[float]], bound: float) -> str:
    """Return an SVG with a line for each curve and a dashed one for the bound."""
    steps, highest = max(map(len, curves.values())), max(losses[0] for losses in curves.values())

    def place(step: float, loss: float) -> str:
        x = MARGIN + step / steps * (WIDTH - 3 * MARGIN)
        y = HEIGHT - MARGIN - loss / highest * (HEIGHT - 1.5 * MARGIN)
        return f"{x:.1f},{y:.1f}"

    def line(points: list[tuple[float, float]], style: str) -> str:
        return f'<polyline points="{" ".join(place(*point) for point in points)}" fill="none" {style}/>'

    def words(step: float, loss: float, text: str, style: str = "") -> str:
        x, y = place(step, loss).split(",")
        return f'<text x="{x}" y="{y}" {style}>{text}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        line([(0, highest), (0, 0), (steps, 0)], 'stroke="#333"'),
        line([(0, bound), (steps, bound)], 'stroke="#d62728" stroke-dasharray="6 4" stroke-width="2"'),
        words(0.012 * steps, bound - 0.06 * highest, f"bound: {bound:.3f} nats", 'fill="#d62728"'),
        words(0.42 * steps, -0.12 * highest, "step"),
        *(words(step, -0.06 * highest, str(step), 'text-anchor="middle"') for step in range(0, steps + 1, steps // 4)),
        *(words(-0.01 * steps, i, str(i), 'text-anchor="end" dy="4"') for i in range(int(highest) + 1)),
        words(-0.06 * steps, highest * 1.04, "loss in nats"),
    ]
    for (n_embd, losses), colour in zip(curves.items(), COLOURS, strict=False):
        every = max(1, steps // 200)
        points = [(i + 1.0, losses[i]) for i in range(0, len(losses), every)]
        parts.append(line(points, f'stroke="{colour}" stroke-width="2"'))
        last = losses[-1] + (-0.035 * highest if n_embd == max(curves) else 0.0)
        parts.append(words(steps * 1.01, last, f"n_embd {n_embd}", f'fill="{colour}" dy="4"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
