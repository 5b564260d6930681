"""Make the round trip of `tests/hub/test_push.py` on the real Hub, for whoever has a token.

    HF_TOKEN=... python scripts/check_hub.py [--namespace NAME]

A private repository with a random name is made, a small model is pushed, and what `AutoModel` (with and without this
package), `AutoTokenizer`, sentence-transformers and a pipeline load from it, each in a fresh process with an empty
cache, is compared with what was pushed. The repository is deleted at the end, whatever happens in between. The
repository is on the Hub that HF_ENDPOINT names, if it is set.
"""

import argparse
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile

import numpy as np
import torch
from huggingface_hub import HfApi

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer, push_to_hub


TEXTS = ["The tide came in.", "It went out again, past the bar and the buoys."]

HEAD = """
import hashlib, importlib, sys
import numpy as np
name, revision, *texts = sys.argv[1:]
def answer(*vectors):
    print([hashlib.sha256(np.ascontiguousarray(v, dtype=np.float32).tobytes()).hexdigest() for v in vectors])
"""
WITHOUT_PACKAGE = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gpt_embeddings", "configuration_gpt_embeddings", "modeling_gpt_embeddings"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""
AUTO_MODEL = """
import torch
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code={trust})
model = AutoModel.from_pretrained(name, revision=revision, trust_remote_code={trust}).eval()
with torch.no_grad():
    vectors = model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state
answer(*vectors)
"""
WAYS = {
    "AutoModel, package imported": "import gpt_embeddings\n" + AUTO_MODEL.format(trust=False),
    "AutoModel, package not importable": WITHOUT_PACKAGE + AUTO_MODEL.format(trust=True),
    "SentenceTransformer": WITHOUT_PACKAGE
    + """
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(name, revision=revision, trust_remote_code=True)
vectors = [v.cpu().numpy() for v in model.encode(texts, output_value="token_embeddings")]
answer(*vectors)
""",
    "pipeline": WITHOUT_PACKAGE
    + """
from transformers import pipeline
extract = pipeline("feature-extraction", model=name, revision=revision, trust_remote_code=True)
answer(*[extract(text, return_tensors=True)[0] for text in texts])
""",
}


def load_in_fresh_process(code: str, *arguments: str) -> str:
    """Run a program with an empty cache and return its last line."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "HF_HOME": cache}
        command = [sys.executable, "-c", HEAD + code, *arguments]
        result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lines = result.stdout.splitlines()
    return lines[-1] if result.returncode == 0 and lines else f"exit code {result.returncode}"


def digest(vectors: torch.Tensor) -> str:
    """Return the hash that the fresh processes print."""
    return hashlib.sha256(np.ascontiguousarray(vectors.numpy()).tobytes()).hexdigest()


def main() -> int:
    """Run the round trip; return the number of ways that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", help="user or organisation; by default the token's user")
    namespace = parser.parse_args().namespace
    api = HfApi()
    name = f"{namespace or api.whoami()['name']}/gpt-embeddings-check-{secrets.token_hex(4)}"

    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_positions=64, n_embd=16)).eval()
    tokenizer = load_tokenizer(model_max_length=64)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model(**batch).last_hidden_state
    padded = str([digest(row) for row in rows])
    bare = str([digest(row[mask == 1]) for row, mask in zip(rows, batch["attention_mask"], strict=True)])

    failures = []
    try:
        commit = push_to_hub(model, name, tokenizer=tokenizer, private=True)
        for way, code in WAYS.items():
            found = load_in_fresh_process(code, name, commit.oid, *TEXTS)
            same = found == (padded if way.startswith("AutoModel") else bare)
            print(f"{'same' if same else 'DIFFERENT':10}{way}{'' if same else ': ' + found}")
            failures += [] if same else [way]
        again = push_to_hub(model, name, tokenizer=tokenizer)
        same = again.oid == commit.oid
        print(f"{'same' if same else 'DIFFERENT':10}second push makes no commit")
        failures += [] if same else ["second push"]
    finally:
        api.delete_repo(name, missing_ok=True)
        print(f"deleted   {name}")
    print(json.dumps({"failed": failures}))
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
