"""Translate English sentences to Portuguese with Apertium, a rule-based translator that Debian has as packages.

There is no package for this pair of languages, so sentences take two steps: by Spanish, or by Catalan, whose
dictionary of English is larger. Sentences with an unknown word that is no name are left out; about half remain. The
packages are unpacked into a folder, not installed.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path


PACKAGES = {
    "lttoolbox": "3.7.1-1+b2",
    "liblttoolbox3": "3.7.1-1+b2",
    "apertium": "3.8.3-1+b2",
    "libapertium3": "3.8.3-1+b2",
    "apertium-anaphora": "1.1.1-1+b1",
    "apertium-lex-tools": "0.4.2-2",
    "libapertium-lex-tools1": "0.4.2-2",
    "apertium-separable": "0.6.1-1+b1",
    "cg3": "1.3.9-1+b2",
    "libcg3-1": "1.3.9-1+b2",
    "apertium-eng-spa": "0.8.1-2",
    "apertium-es-pt": "1.1.6-1",
    "apertium-eng-cat": "1.0.1-5",
    "apertium-por-cat": "0.10.1-2",
}
TO_PORTUGUESE = {"Spanish": ("eng-spa", "es-pt_BR"), "Catalan": ("eng-cat", "cat-por_BR")}
TO_ENGLISH = ("pt-es", "spa-eng")
AT_ONCE = 2000  # sentences
MARKS = re.compile(r"[*@#^$/<>{}\[\]\\~]")  # of the stream between Apertium's programs
UNKNOWN = re.compile(r"[*@#]\s*[a-zà-ÿ]|[@#]\w")  # a word that is no name


def unpack(folder: Path) -> Path:
    """Download and unpack the packages, once; return the root of their files."""
    root = folder / "root"
    if not root.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}={version}" for name, version in PACKAGES.items()]
        subprocess.run(["apt-get", "download", *wanted], cwd=folder, check=True)
        for file in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg", "-x", file, folder / "partial"], check=True)
        os.replace(folder / "partial", root)
    return root


def translate(texts: list[str], steps: tuple[str, str], root: Path) -> list[str]:
    """Return the translation of each text, empty where a word is unknown."""
    texts = [MARKS.sub(" ", text).strip() for text in texts]
    for mode in steps:
        texts = [text for i in range(0, len(texts), AT_ONCE) for text in _run(texts[i : i + AT_ONCE], mode, root)]
    return texts


def _run(texts: list[str], mode: str, root: Path) -> Iterator[str]:
    """Yield the translations of one step; a sentence that swallowed its neighbour is left out with it."""
    there = [text for text in texts if text]
    if not there:
        yield from texts
        return
    modes = root / "usr/share/apertium"
    programs = (modes / "modes" / f"{mode}.mode").read_text().strip()
    programs = programs.replace("$1", "-g").replace("$2", "").replace("/usr/share/apertium", str(modes))
    libraries = ":".join(map(str, (root / "usr/lib").glob("*-linux-gnu")))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"apertium-destxt -n | {programs} | apertium-retxt"],
        input="".join(f"{text}{'' if text[-1] in '.!?' else '.'}\n\n" for text in there),
        env={**os.environ, "PATH": f"{root / 'usr/bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries},
        encoding="utf-8",
        stdout=subprocess.PIPE,
        check=True,
    )
    found = done.stdout.removesuffix("\n\n").split("\n\n")
    if len(found) != len(there):
        if len(there) == 1:
            found = [""]
        else:
            half = len(there) // 2
            found = [*_run(there[:half], mode, root), *_run(there[half:], mode, root)]
    translated = iter(found)
    for text in texts:
        one = " ".join(next(translated).split()) if text else ""
        yield "" if UNKNOWN.search(one) else one.replace("*", "")
