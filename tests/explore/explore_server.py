"""Serve pages of `explore` to the tests in the browser: `python explore_server.py MODEL OTHER BROKEN`.

One process, so that torch and Gradio are imported once. The pages compare the first two models, show the first, show
the one that does not load, and show the first in Portuguese, whatever the browser prefers. It prints their addresses
as JSON and ends with its standard input.
"""

import json
import socket
import sys

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.page import launch_page


def free_port() -> int:
    """Return a port of the system's choice: workers of one run must not look for the first free one together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """Serve until the standard input ends."""
    model, other, broken = sys.argv[1:]
    pages = [
        launch_page(
            [LazyModel.from_pretrained(name) for name in names], port=free_port(), block=False, language=language
        )
        for names, language in (((model, other), None), ((model,), None), ((broken,), None), ((model,), "pt"))
    ]
    sys.stdout.write(json.dumps([page.local_url for page in pages]) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
