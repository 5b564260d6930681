"""Make a round trip on the real Hub, for whoever has a token.

    HF_TOKEN=... python scripts/check_hub.py [--namespace NAME]

A private repository with a random name is made and a small model is pushed. Two fresh processes with empty caches, one
with this package and one without it, load it with `AutoModel`, `AutoTokenizer`, sentence-transformers and a pipeline,
compare what these give with what was pushed, and run the examples of its card. The repository is deleted at the end,
whatever happens in between. HF_ENDPOINT may name another Hub.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer, push_to_hub


TEXTS = ["The tide came in.", "It went out again, past the bar and the buoys."]
N_POSITIONS, N_EMBD = 64, 16

BLOCK_PACKAGE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gpt_embeddings", "configuration_gpt_embeddings", "modeling_gpt_embeddings"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""
LOAD = r"""
import json, re, sys, torch
from pathlib import Path
from huggingface_hub import hf_hub_download
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, pipeline
package = "gpt_embeddings" in sys.modules
name, revision, *texts = sys.argv[1:]
options = {"revision": revision, "trust_remote_code": not package}
tokenizer = AutoTokenizer.from_pretrained(name, **options)
model = AutoModel.from_pretrained(name, **options).eval()
assert type(model).__module__.startswith("transformers_modules.") != package
with torch.no_grad():
    found = {"AutoModel": model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state.tolist()}
found["longest"] = len(tokenizer("tide " * 100, truncation=True)["input_ids"])
model = SentenceTransformer(name, device="cpu", **options)
tokens = model.encode(texts, output_value="token_embeddings")
found["SentenceTransformer"] = [rows.tolist() for rows in tokens]
found["sentences"] = model.encode(texts).tolist()
extract = pipeline("feature-extraction", model=name, device="cpu", **options)
found["pipeline"] = [extract(text, return_tensors=True)[0].tolist() for text in texts]
card = Path(hf_hub_download(name, "README.md", revision=revision)).read_text(encoding="utf-8")
found["card"] = []
for example in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
    if ("gpt_embeddings" in example) == package:
        names = {}
        exec(example, names)
        found["card"].append(list(names["vectors"].shape))
print("\n" + json.dumps(found))
"""
WAYS = {"with the package": "import gpt_embeddings\n" + LOAD, "without the package": BLOCK_PACKAGE + LOAD}


def load_in_fresh_process(code: str, *arguments: str) -> dict[str, Any]:
    """Run a program with an empty cache and return what its last line has."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "HF_HOME": cache}
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1])) if result.returncode == 0 else {}


def expected_of(model: GPTEmbeddingsModel) -> dict[str, Any]:
    """Return what each way has to give, except for the card's examples."""
    batch = load_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)
    masks = batch["attention_mask"]
    rows = [row[mask == 1].tolist() for row, mask in zip(output.last_hidden_state, masks, strict=True)]
    padded, sentences = output.last_hidden_state.tolist(), output.pooler_output.tolist()
    found = {"AutoModel": padded, "SentenceTransformer": rows, "pipeline": rows}
    return {**found, "sentences": sentences, "longest": N_POSITIONS}


def main() -> int:
    """Run the round trip; return the number of ways that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", help="user or organisation; by default the token's user")
    namespace = parser.parse_args().namespace
    api = HfApi()
    name = f"{namespace or api.whoami()['name']}/gpt-embeddings-check-{secrets.token_hex(4)}"

    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_positions=N_POSITIONS, n_embd=N_EMBD)).eval()
    tokenizer = load_tokenizer(model_max_length=N_POSITIONS)
    expected = expected_of(model)
    n_tokens = len(tokenizer("The tide came in.")["input_ids"])
    expected |= {"with the package": [[2, N_EMBD]]}
    expected |= {"without the package": [[2, N_EMBD], [2, N_EMBD], [n_tokens, N_EMBD]]}

    failures = []

    def report(what: str, same: bool) -> None:
        print(f"{'same' if same else 'DIFFERENT':10}{what}")
        failures.extend([] if same else [what])

    try:
        commit = push_to_hub(model, name, tokenizer=tokenizer, private=True)
        for package, code in WAYS.items():
            found = load_in_fresh_process(code, name, commit.oid, *TEXTS)
            for way in ("AutoModel", "SentenceTransformer", "pipeline", "longest"):
                report(f"{way}, {package}", found.get(way) == expected[way])
            close = np.allclose(found.get("sentences", np.inf), expected["sentences"], rtol=0, atol=1e-7)
            report(f"sentences, {package}", close)  # sentence-transformers pools by itself
            report(f"examples of the card, {package}", found.get("card") == expected[package])
        again = push_to_hub(model, name, tokenizer=tokenizer)
        report("second push makes no commit", again.oid == commit.oid)
    finally:
        api.delete_repo(name, missing_ok=True)
        print(f"deleted   {name}")
    print(json.dumps({"failed": failures}))
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
