"""Output on consoles and into pipes that do not take everything."""

import os
import subprocess
import sys

import pytest


PRINTS = """
import sys
import gpt_embeddings_cli
def write():
    for _ in range(int(sys.argv[1])):
        print("mar\u00e9 \U0001f30a")
    print("done", file=sys.stderr)
gpt_embeddings_cli.app = write
gpt_embeddings_cli.main()
"""


def test_characters_that_the_encoding_lacks_are_replaced():
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", PRINTS, "1"], env=environment, capture_output=True)
    assert (done.returncode, done.stdout.decode("cp1252").split(), done.stderr.split()) == (
        0,
        ["mar\u00e9", "?"],
        [b"done"],
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-c", PRINTS, "100000"], b"done"),
        (["-c", "import gpt_embeddings_cli; gpt_embeddings_cli.main()", "--help"], b""),
    ],
    ids=["print", "help"],
)
def test_a_reader_that_leaves_early_is_no_error(arguments, said):
    """As `gpt-embeddings search ... | head -1`."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, *arguments], stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (done.returncode, done.stderr.strip()) == (0, said)
