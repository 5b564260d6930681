"""Serve pages of `explore` to the tests in the browser: `python explore_server.py MODEL OTHER BROKEN`.

One process, so that torch and Gradio are imported once: a page that compares the first two models, and one of a model
that does not load. It prints their addresses as JSON and ends with its standard input.
"""

import json
import sys

from gpt_embeddings.explore import launch_page
from gpt_embeddings.subjects import find_subject


model, other, broken = sys.argv[1:]
pages = [
    launch_page([find_subject(name) for name in names], block=False) for names in ((model, other), (model,), (broken,))
]
sys.stdout.write(json.dumps([page.local_url for page in pages]) + "\n")
sys.stdout.flush()
sys.stdin.read()
