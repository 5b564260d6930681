"""The English text that the table of the package is learned from: where each part comes from, and its parser.

Every source is free to use, is taken by name and version (Debian) or by name and commit (public repositories), and is
no set that sentence vectors are evaluated on, nor made from one. `docs/text_sources.md` is written from here.
"""

import csv
import gzip
import hashlib
import html
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass


Parser = Callable[[bytes], Iterator[str]]


SHOWS = re.compile(
    r"(?:One|The left|The right|Each|At least one|Exactly one)(?: of the)? (?:images?|pictures?|photos?) "
    r"(?:shows?|contains?|features?|includes?|depicts?|has|displays?) (.*)",
    re.S,
)


@dataclass(frozen=True)
class Source:
    """Some files of a package or repository, all of one kind."""

    name: str
    """Debian package, or `owner/repository`."""

    version: str
    """Version of the package, or commit."""

    files: str
    """Pattern that the whole path of a file must match."""

    parser: Parser
    licence: str
    kind: str
    held_out: bool = False
    """Kept from training, to judge by."""

    most: int = 1_000_000
    """Texts that are used at most, so that no kind drowns the others: a random choice."""

    portuguese: bool = False


def plain(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a text file; of a Project Gutenberg file what is between its marks."""
    text = decode(data).replace("\r\n", "\n")
    text = re.split(r"\*\*\* ?START OF TH.*\n", text)[-1]
    text = re.split(r"\*\*\* ?END OF TH", text)[0]
    yield from re.split(r"\n\s*\n", text)


def lines(data: bytes) -> Iterator[str]:
    """Yield lines."""
    yield from decode(data).split("\n")


def columns(*wanted: int, split: str = "\t") -> Parser:
    """Yield some columns of a table."""

    def parse(data: bytes) -> Iterator[str]:
        for line in decode(data).split("\n"):
            cells = line.split(split)
            yield from (cells[i].strip('" ') for i in wanted if i < len(cells))

    return parse


def wiki_split(data: bytes) -> Iterator[str]:
    """Yield sentences and the two that each was split into."""
    for line in decode(data).split("\n"):
        yield from (_untokenize(part) for part in re.split(r"\t| <::::> ", line))


def glosses(data: bytes) -> Iterator[str]:
    """Yield definitions and examples of WordNet."""
    for line in decode(data).split("\n"):
        if "|" in line:
            gloss = line.split("|", 1)[1]
            yield from re.findall(r'"([^"]+)', gloss)
            yield from re.sub(r'"[^"]*"?', "", gloss).strip(" ;").split("; ")


def lemmas(data: bytes) -> Iterator[str]:
    """Yield the words and names of WordNet."""
    for line in decode(data).split("\n"):
        if line and line[0].isalnum():
            cells = line.split(" ")
            yield cells[4].replace("_", " ")


def webster(data: bytes) -> Iterator[str]:
    """Yield definitions and quotations of the Collaborative International Dictionary."""
    text = re.sub(r"\[[^\[\]]*\]", " ", decode(gzip.decompress(data)))
    text = re.sub(r"--[A-Z][\w. ]*\.?|\{|\}|\([A-Z][\w.& ]*\)", " ", text)
    for entry in re.split(r"\n\s*\n|\n   (?=\d+\. )", text):
        body = re.sub(r"^\s*\d+\.\s*(\([a-z]\)\s*)?", "", entry)
        if "\\" not in body and not re.search(r"\b(pl|imp|adv|n|v|obs)\.", body):
            yield from re.split(r"; as,|;(?= )", body)


def dictd(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a dictionary, without its marks of references."""
    text = decode(gzip.decompress(data))
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith(" "):
            yield re.sub(r"<[^>]*>|[{}]|^\s*\d+\.", "", paragraph)


def fortunes(data: bytes) -> Iterator[str]:
    """Yield sayings, without who said them."""
    for saying in re.split(r"\n%\n", decode(data)):
        yield re.sub(r"\n\s*-- .*", "", saying, flags=re.S)


def markup(tag: str) -> Parser:
    """Yield the text of one kind of element."""
    element = re.compile(rf"<{tag}(?:\s[^>]*)?>(.*?)</{tag}>", re.S)

    def parse(data: bytes) -> Iterator[str]:
        for match in element.finditer(decode(data)):
            text = re.sub(r"<m:math.*?</m:math>|<footnote.*?</footnote>", " ", match[1], flags=re.S)
            if "<m:" not in text:
                yield html.unescape(re.sub(r"<[^>]+>", "", text))

    return parse


def markdown(data: bytes) -> Iterator[str]:
    """Yield paragraphs of prose, without front matter, code, tables, headings and addresses."""
    text = re.sub(r"\A---\n.*?\n---\n", "", decode(data).replace("\r\n", "\n"), flags=re.S)
    text = re.sub(r"```.*?```|<!--.*?-->|\{[{%].*?[%}]\}|<[^>]+>", " ", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|\n\s*[-*+] ", text):
        if not re.match(r"\s*(#|\||>?\s*\[|http|\w+:)", paragraph):
            yield re.sub(r"[*_`>]+|^\s*[-+\d.]+\s", "", html.unescape(paragraph))


def conllu(data: bytes) -> Iterator[str]:
    """Yield the sentences of a treebank."""
    yield from re.findall(r"^# text = (.*)$", decode(data), flags=re.M)


def json_strings(*keys: str) -> Parser:
    """Yield the strings under some keys, wherever they are."""

    def walk(value: object, wanted: bool) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, key in keys)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner, wanted)
        elif isinstance(value, str) and wanted:
            yield re.sub(r"<[^>]+>", "", html.unescape(value))

    return lambda data: walk(json.loads(data), False)


def stories(data: bytes) -> Iterator[str]:
    """Yield the pages of a picture book, if its licence is not for non-commercial use alone."""
    text = decode(data)
    if "CC-BY-NC" not in text:
        yield from (page for page in re.split(r"\n##?.*\n", text) if "License:" not in page)


def captions(data: bytes) -> Iterator[str]:
    """Yield statements on pairs of pictures, and what they say of one of them as a sentence of its own."""
    for line in data.split(b"\n"):
        if line.strip():
            sentence = json.loads(line)["sentence"].strip()
            yield sentence
            match = SHOWS.fullmatch(sentence)
            if match:
                yield match[1][0].upper() + match[1][1:]


def intents(data: bytes) -> Iterator[str]:
    """Yield the first of each pair of an utterance and what is meant by it."""
    for part in json.loads(data).values():
        yield from (pair[0] for pair in part)


def zipped(pattern: str, parser: Parser) -> Parser:
    """Parse some files of an archive."""

    def parse(data: bytes) -> Iterator[str]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in sorted(archive.namelist()):
                if re.fullmatch(pattern, name):
                    yield from parser(archive.read(name))

    return parse


def questions(data: bytes) -> Iterator[str]:
    """Yield questions that lack their mark and capital, with both."""
    for line in decode(data).split("\n"):
        question = line.split("\t")[0].strip(" ?")
        if question:
            yield question[0].upper() + question[1:] + "?"


def decode(data: bytes) -> str:
    """Return text that is in UTF-8 or in Latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _untokenize(text: str) -> str:
    text = text.replace(" '' ", ' " ').replace("`` ", '"').replace(" ''", '"').replace("''", '"')
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m))\b", r"\1", text)
    text = re.sub(r" ([.,;:!?%)\]])", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", text)


def pairs(*wanted: int, untokenize: bool = False) -> Parser:
    """Yield some columns of a table with a head."""
    parse = columns(*wanted)

    def body(data: bytes) -> Iterator[str]:
        for text in parse(data.split(b"\n", 1)[1]):
            yield _untokenize(text) if untokenize else text

    return body


def zipped_lines(data: bytes) -> Iterator[str]:
    """Yield lines of a file compressed with gzip."""
    yield from lines(gzip.decompress(data))


def tokenized(data: bytes) -> Iterator[str]:
    """Yield lines whose punctuation stands apart, without the spaces before it."""
    yield from map(_untokenize, lines(data))


def csv_column(name: str) -> Parser:
    """Yield one column of a CSV file with a head."""

    def parse(data: bytes) -> Iterator[str]:
        for row in csv.DictReader(io.StringIO(decode(data))):
            yield row[name]

    return parse


def updates(data: bytes) -> Iterator[str]:
    """Yield hypotheses, premises and what makes them more or less likely; `PersonX` becomes a name."""
    for line in lines(data):
        if line:
            row = json.loads(line)
            for field in ("Hypothesis", "Update", "Premise"):
                if isinstance(row.get(field), str):
                    yield _named(re.sub(r"^(Before|As a result|Because), ", "", row[field]))


def _named(text: str) -> str:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest(), "big")
    first, second = NAMES[number % 8], NAMES[(number + 1 + number // 8 % 7) % 8]
    text = re.sub(r"\bPerson ?X\b", first, text)
    return re.sub(r"\bPerson ?Y\b", second, re.sub(r"\bPerson ?Z\b", "Kate", text))


NAMES = ["Ann", "Ben", "Tom", "Mary", "Sam", "John", "Lucy", "Peter"]
LEMMAS = "words and names"
TIMES = {"descriptions of pictures": 4, "everyday statements": 2, "web, mail, reviews": 2}  # an epoch; others once
CC0, BY, BY_SA = "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"
OLD = "public domain"


def book(name: str, commit: str) -> Source:
    """Return a book of Standard Ebooks."""
    return Source(
        f"standardebooks/{name}", commit, r"src/epub/text/.*\.xhtml", markup("p"), CC0, "fiction and essays", most=4000
    )


def textbook(name: str, commit: str, most: int = 7000) -> Source:
    """Return a textbook of OpenStax, as it was under a licence that lets everybody use it."""
    return Source(f"openstax/osbooks-{name}", commit, r"modules/.*\.cnxml", markup("para"), BY, "textbooks", most=most)


SOURCES = [
    book("aesop_fables_v-s-vernon-jones", "4090a25015f67448f68c077c9ad0b12d3f68927a"),
    book("agatha-christie_the-mysterious-affair-at-styles", "5daaa8ab33f8bad4e1da19e38b728f3d82262956"),
    book("arthur-conan-doyle_the-adventures-of-sherlock-holmes", "23b2b6e0aa1350aaccaac91e1d0fe3bb6ed4c81f"),
    book("charles-darwin_the-voyage-of-the-beagle", "4ad3b795abbb155e21c100d17d0b4d3ed0e34c8a"),
    book("dorothy-l-sayers_whose-body", "cbac833aef94741df77058efd748ec9ebf31956a"),
    book("ernest-hemingway_the-sun-also-rises", "250a5cec3785e00a50d0e3597a22f2d5c1ce5c68"),
    book("f-scott-fitzgerald_the-great-gatsby", "194dc118c0f998da3bc5443d97370e16781b899a"),
    book("fritz-leiber_short-fiction", "f48a868a6a41eb2a3cdd9e106be74902331d5c0d"),
    book("fyodor-dostoevsky_the-brothers-karamazov_constance-garnett", "babab9265e619f8245f2d7d957f64f4aa29fa992"),
    book("g-k-chesterton_the-innocence-of-father-brown", "c422d6b6d9e1564a6f02d1ad9d865a191971c273"),
    book("h-beam-piper_short-fiction", "9cc9fa4e901236f70e677856a86718830fdca117"),
    book("h-g-wells_short-fiction", "7f7a769669769accb725143813b05ec77c1f9761"),
    book("jane-austen_pride-and-prejudice", "8ec1ca806088448201a95e277010ea160d3ebb48"),
    book("jerome-k-jerome_three-men-in-a-boat", "4f8189319b455965aa70a927ff4d2b9ce6b9513f"),
    book("kenneth-grahame_the-wind-in-the-willows", "b44b52fea051d02764bb375fffc79066f50a9404"),
    book("l-m-montgomery_anne-of-green-gables", "87a8976ae6bd342a5e20eb9b7b8399a245108246"),
    book("mark-twain_the-innocents-abroad", "66cbaaa5026bc61ab24706df9f5ae2a965010d74"),
    book("p-g-wodehouse_short-fiction", "8ca35a4a36ab037eb142b85416d08ae7d27cb2d1"),
    book("philip-k-dick_short-fiction", "e423075ad1322ec9cbeee71c8e9034fbe1003b36"),
    book("ring-lardner_short-fiction", "516d0274a531c798be291e4787fb1de2efe7c533"),
    book("robert-sheckley_short-fiction", "08142fa9d3695dc3663388ab18e051c00ef5af45"),
    book("sinclair-lewis_babbitt", "6ea7c30d6e2c9d1cd4a49d86f30d6d06ee74ba2c"),
    book("virginia-woolf_mrs-dalloway", "88fdfad6d5b8432d00e125162811dc3336afa957"),
    textbook("psychology", "e061043bf2f9e86ace51c4e8dc9555160f60a99d"),
    textbook("introduction-sociology", "d35d5f3bdac40f93607d600134865d4f13ce1f9b"),
    textbook("us-history", "046331cfcea0ac1b1a8fd461b3e6aae638845af3"),
    textbook("world-history", "3e17beda9130380d24be881e6d1942dfcc1be845"),
    textbook("american-government", "5c90dd7907dbf25f42266417e63ca3bb0012f031"),
    textbook("anatomy-physiology", "b0058a743bdd2cc08196abaaa7d5469970c0d80c"),
    textbook("astronomy", "63157f370b09c06a4cc12832384aaaf4de1ced3b"),
    textbook("introduction-philosophy", "d7bd4f0f520529b3ad83272448a9c2be25c9040a"),
    textbook("introduction-political-science", "4391e659b98eec43b71e8b3f08241215fb4dd4c4"),
    textbook("chemistry-bundle", "32c719622fbb7a0ca729cd645c1df4cf4e7d5b3a"),
    textbook("introduction-anthropology", "418eedd9bef21ec1a6fa1b472c0d82c084e35c70"),
    textbook("introduction-business", "78c9e7ad4e581d4ff98e78ea30214840e1fa7e1e"),
    textbook("principles-economics-bundle", "cd31beb103fffbc09cc81ebfe117d8c40cc12d1a"),
    textbook("life-liberty-and-pursuit-happiness", "acb6fbe2744dd112187b6aff5946cfe969410fca", most=6000),
    textbook("nursing-external-bundle", "7876f90a3dbdc0756e21a374d4a46526d0ac453b", most=8000),
    Source(
        "wordnet-base",
        "1:3.0-37",
        r"usr/share/wordnet/data\..*",
        glosses,
        "WordNet 3.0 (free)",
        "definitions and examples",
    ),
    Source("wordnet-base", "1:3.0-37", r"usr/share/wordnet/data\..*", lemmas, "WordNet 3.0 (free)", LEMMAS),
    Source(
        "dict-gcide",
        "0.48.5+nmu2",
        r"usr/share/dictd/gcide\.dict\.dz",
        webster,
        "GPL-3",
        "definitions and examples",
        most=30_000,
    ),
    Source(
        "dict-foldoc", "20230119-1", r"usr/share/dictd/foldoc\.dict\.dz", dictd, "GFDL-1.2+", "computing", most=15_000
    ),
    Source("dict-jargon", "4.4.7-3.1", r"usr/share/dictd/jargon\.dict\.dz", dictd, OLD, "computing"),
    Source("dict-devil", "1.0-13.1", r"usr/share/dictd/devil\.dict\.dz", dictd, OLD, "fiction and essays"),
    Source(
        "fortunes",
        "1:1.99.1-7.3",
        r"usr/share/games/fortunes/[a-z-]*",
        fortunes,
        "BSD and public domain",
        "sayings and jokes",
    ),
    Source(
        "fortunes-min",
        "1:1.99.1-7.3",
        r"usr/share/games/fortunes/[a-z-]*",
        fortunes,
        "BSD and public domain",
        "sayings and jokes",
    ),
    Source(
        "google-research-datasets/dstc8-schema-guided-dialogue",
        "e852981ae34990f4358979625854259302feaa78",
        r"(train|dev|test)/dialogues_.*\.json",
        json_strings("utterance"),
        BY_SA,
        "conversation",
        most=50_000,
    ),
    Source(
        "alexa/Topical-Chat",
        "7c939229cbcf6f55f6977b341a5a2f2fe982d53f",
        r"conversations/.*\.json",
        json_strings("message"),
        "CDLA-Sharing-1.0",
        "conversation",
    ),
    Source(
        "lil-lab/nlvr",
        "18924841aa96d519cfb8584f0945350f07a6d860",
        r"nlvr2/data/(dev|test1|test2)\.json",
        captions,
        BY,
        "descriptions of pictures",
    ),
    Source(
        "wangcunxiang/SemEval2020-Task4-Commonsense-Validation-and-Explanation",
        "c55b1a9e6cb66997675f85073e17a9522cf38c2c",
        r"ALL data/(train|dev)\.csv",
        columns(0, 1, 2, 5, 6, split=","),
        BY_SA,
        "everyday statements",
    ),
    Source(
        "wangcunxiang/SemEval2020-Task4-Commonsense-Validation-and-Explanation",
        "c55b1a9e6cb66997675f85073e17a9522cf38c2c",
        r"ALL data/test\.csv",
        columns(0, 1, 2, 5, 6, split=","),
        BY_SA,
        "everyday statements",
        held_out=True,
    ),
    Source(
        "mozilla/voice-web",
        "e0bfbc4be9eb6a97f7dd92eb938200f09f04ba96",
        r"server/data/en/[^/]*\.txt",
        lines,
        CC0,
        "read-aloud sentences",
    ),
    Source(
        "facebookresearch/LASER",
        "74bc6ae7ffb7cba670fe0f428d0ede9f666fb821",
        r"data/tatoeba/v1/.*\.eng",
        lines,
        "CC-BY-2.0-FR",
        "everyday statements",
    ),
    Source(
        "ekinakyurek/lexical",
        "3956fa2a2dd976d99a94e8ad9ed8d3a6f65a5c78",
        r"TRANSLATE/cmn\.txt",
        columns(0),
        "CC-BY-2.0-FR",
        "everyday statements",
    ),
    Source(
        "clinc/oos-eval",
        "828f8093932c8fe6ca7936c3d2e52903b1c523de",
        r"data/data_full\.json",
        intents,
        "CC-BY-3.0",
        "requests and questions",
    ),
    Source(
        "PolyAI-LDN/task-specific-datasets",
        "57ec275d8078af65b7731c2a98be812d844a6d6b",
        r"banking_data/(train|test)\.csv",
        columns(0, split=","),
        BY,
        "requests and questions",
        most=10_000,
    ),
    Source(
        "google-research-datasets/query-wellformedness",
        "fb69c21416195cddc797277ea9e4d393226571d2",
        r"(train|dev|test)\.tsv",
        questions,
        BY_SA,
        "requests and questions",
    ),
    Source(
        "google-research-datasets/wiki-split",
        "80f5bddf42d1a68201b7b107ee4b8d86d82e9fde",
        r"(tune|validation|test)\.tsv",
        wiki_split,
        BY_SA,
        "encyclopaedia",
    ),
    Source(
        "google-research-datasets/gap-coreference",
        "83135f26025cdd705c04f77e940d0c9201116b80",
        r"gap-.*\.tsv",
        columns(1),
        "Apache-2.0; text CC-BY-SA",
        "encyclopaedia",
    ),
    Source(
        "factbook/factbook.json",
        "8662a8b17a784841ab4528631b04090eb2f183eb",
        r"[a-z-]+/[a-z-]+\.json",
        json_strings("text"),
        OLD,
        "encyclopaedia",
        most=10_000,
    ),
    Source(
        "GSA/digitalgov.gov",
        "4979583206d90ff1707b097454a9b169ca9e95e4",
        r"content/.*\.md",
        markdown,
        OLD,
        "news and blogs",
        most=50_000,
    ),
    Source(
        "18F/18f.gsa.gov",
        "0a55c75e6d9bc71c80136a3867dac52356177443",
        r"content/posts/.*\.md",
        markdown,
        CC0,
        "news and blogs",
    ),
    Source(
        "department-of-veterans-affairs/vagov-content",
        "5d2beb6948242bbe4bc86bbc5eb9e1df509b4f50",
        r"pages/.*\.md",
        markdown,
        OLD,
        "news and blogs",
    ),
    Source(
        "nltk/nltk_data",
        "5db857e6f7df11eabb5e5665836db9ec8df07e28",
        r"packages/corpora/(state_union|inaugural)\.zip",
        zipped(r".*\.txt", plain),
        OLD,
        "speeches",
        most=15_000,
    ),
    Source(
        "UniversalDependencies/UD_English-EWT",
        "15d613d8447b3478787d4c278730a1e48a945efb",
        r".*\.conllu",
        conllu,
        BY_SA,
        "web, mail, reviews",
    ),
    Source(
        "jhacksman/arxiv2025",
        "8782bb4e8a336d6319ab47696bc17968ed7e54f4",
        r"library/content/literature/.*/(?!don_quijote|du_cote|josefine|novo_dic|noli_me|ang_fil|doctrina|shen_yin|complete_sh|devil_is|morte_d|hamlet|romeo|doctor_f)[a-z_0-9]*\.txt",
        plain,
        OLD,
        "fiction and essays",
        most=45_000,
    ),
    Source(
        "global-asp/asp-source",
        "99e022369a980bd52bce8c6f86d5f24e9a4ada9d",
        r"en/.*\.md",
        stories,
        BY,
        "picture books",
        held_out=True,
    ),
    Source(
        "UniversalDependencies/UD_English-GUM",
        "afb41ee9bca57991125814fa04d96a0e61470c8b",
        r"not-to-release/sources/GUM_(news|interview|bio|voyage|textbook|vlog|speech|conversation)_.*\.conllu",
        conllu,
        "CC-BY",
        "news, travel, talk",
        held_out=True,
    ),
    Source(
        "UniversalDependencies/UD_English-PUD",
        "f16eba4ae7f3d161870ed320676c5088b8fa476c",
        r".*\.conllu",
        conllu,
        BY_SA,
        "news and encyclopaedia",
        held_out=True,
    ),
]


# What `refine_default.py` has the teacher read: short statements about everyday scenes, and headlines.
INFERENCE, EXPLANATIONS, SOUNDS, HEADLINES = "inference", "explanations", "descriptions of sounds", "headlines"
EVENTS = "everyday events"
REFINING_WEIGHTS = {  # how often a text comes
    INFERENCE: 4.0,
    EXPLANATIONS: 0.5,
    SOUNDS: 0.3,
    HEADLINES: 0.7,
    "everyday statements": 1.5,
    "encyclopaedia": 1.5,
}
REFINING = [
    Source(
        "OanaMariaCamburu/e-SNLI",
        "7b585a3f077fdea899780eb0473940522ae44a2e",
        r"dataset/eSNLI/s[12]\.(dev|test)",
        tokenized,
        "MIT; SNLI CC-BY-SA-4.0",
        INFERENCE,
    ),
    Source(
        "OanaMariaCamburu/e-SNLI",
        "7b585a3f077fdea899780eb0473940522ae44a2e",
        r"dataset/eSNLI/preproc1_expl_[123]\.(dev|test)",
        tokenized,
        "MIT; SNLI CC-BY-SA-4.0",
        EXPLANATIONS,
        most=28_672,
    ),
    Source(
        "verypluming/HELP",
        "3ee5c298d48549704629a3687ccd8a00168281b8",
        r"output_en/leskexppmb_(and|or)\.tsv",
        pairs(8, 9, untokenize=True),
        BY_SA,
        INFERENCE,
    ),
    Source(
        "acmi-lab/counterfactually-augmented-data",
        "6f232a1d2a11462a30ce08fb4825b734ab30828e",
        r"NLI/(all|revised)_combined/train\.tsv",
        pairs(0, 1),
        "Apache-2.0; SNLI CC-BY-SA-4.0",
        INFERENCE,
    ),
    Source(
        "rudinger/defeasible-nli",
        "c675ffc1b0eec5fa56287f08490da8ed43c1ecc5",
        r"data/defeasible-nli/defeasible-snli/(dev|test)\.jsonl",
        updates,
        "MIT; SNLI CC-BY-SA-4.0",
        INFERENCE,
    ),
    Source(
        "cdjkim/audiocaps",
        "d004db3ea1b01cf4fd0347dd8d27db90cadc8809",
        r"dataset/(train|val|test)\.csv",
        csv_column("caption"),
        "MIT",
        SOUNDS,
    ),
    Source(
        "bhargaviparanjape/clickbait",
        "203d979a81545ae6160ff45ffdac83e74469c97a",
        r"dataset/(non_)?clickbait_data\.gz",
        zipped_lines,
        "MIT",
        HEADLINES,
    ),
    Source(
        "LITDataScience/Machine-Learning",
        "3d2fdedf381fd8da33ebc1369313293cab40c6d4",
        r"data/abcnews-date-text\.csv",
        csv_column("headline_text"),
        "CC0-1.0 (ABC headlines by R. Kulkarni)",
        HEADLINES,
    ),
    Source(
        "rudinger/defeasible-nli",
        "c675ffc1b0eec5fa56287f08490da8ed43c1ecc5",
        r"data/defeasible-nli/defeasible-atomic/(dev|test)\.jsonl",
        updates,
        "MIT; ATOMIC CC-BY-4.0",
        EVENTS,
    ),
]
