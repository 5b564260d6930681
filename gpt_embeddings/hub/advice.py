"""What to do about an error of the Hub: one sentence, added to the client's own error.

Left out: errors of ours, which say it themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


STATE_LICENCE = "Without one nobody may use it: push again with `--license`, or `CardMetadata(license=...)`."
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access from the Hub's settings."
AGAIN = "A commit appears whole or not at all; push again, and what is there already is not sent twice."
ADVICE = {
    400: "The Hub refused the request as it stands; nothing was published. Correct what it names, then push again.",
    401: f"The token was not accepted. {LOG_IN}",
    403: "The token may not do this to {repo_id}. Take a token with write access for its owner, choose a name in your "
    "own namespace, or propose the change as a pull request (`create_pr=True`, `--create-pr`).",
    409: "The name {repo_id} or its branch is taken, or being changed by another push. Choose another, or push again.",
    412: "{repo_id} was changed by another commit meanwhile, which was left as it is. Push again to build on it.",
    429: f"The Hub asks to wait. Try again in a few minutes. {AGAIN}",
    500: f"The Hub is in trouble at the moment. Try again later. {AGAIN}",
}


@contextmanager
def add_advice(repo_id: str) -> Iterator[None]:
    """Let the client's error through with a sentence on what to do."""
    try:
        yield
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        sentence = _what_to_do(error, repo_id)
        if sentence and isinstance(error, HfHubHTTPError):
            error.append_to_message(f"\n{sentence}")
        elif sentence and len(error.args) == 1:
            error.args = (f"{error.args[0]}\n{sentence}",)
        raise


def _what_to_do(error: Exception, repo_id: str) -> str | None:
    reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(reason, OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE to publish."
    if isinstance(reason, GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page, with the account that the token belongs to."
    if isinstance(reason, RevisionNotFoundError):
        return f"Check the revision: {repo_id} has no such branch, tag or commit."
    if isinstance(reason, RepositoryNotFoundError):
        return f"Check the name {repo_id!r}, and that the token may see it: a private repository looks like none."
    if isinstance(reason, HfHubHTTPError):
        status = reason.response.status_code
        sentence = ADVICE.get(status, ADVICE[500] if status >= 500 else None)
        return sentence and sentence.format(repo_id=repo_id)
    if isinstance(reason, (httpx2.HTTPError, ConnectionError, TimeoutError)):
        return f"The connection to the Hub failed. {AGAIN}"
    return f"The upload failed. {AGAIN}" if isinstance(reason, RuntimeError) else None
