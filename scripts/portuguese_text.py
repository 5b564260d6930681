"""The Portuguese text that the table for Portuguese and English is learned from: its sources and their parsers.

The English texts, some of them translated, are those of `default_text.py`. Brazilian and European spelling are both
here: treebanks and help texts of both, novels of Machado de Assis, Azevedo and Alencar, and of Eça de Queirós. None of
it is a set that sentence vectors are evaluated on (ASSIN, ASSIN 2, translations of STS-B or SICK), nor made from one.
`docs/text_sources.md` is written from here.
"""

import gzip
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

from default_text import (
    BY,
    BY_SA,
    CC0,
    LEMMAS,
    OLD,
    Parser,
    Source,
    columns,
    conllu,
    decode,
    fortunes,
    json_strings,
    lines,
    markup,
    plain,
    stories,
    zipped,
)


MOST_FREQUENT = 16_000  # words of a list
LOCATIONS = "15"  # the file of places among those of WordNet's lexicographers
AFTER_DE = re.compile("[oa]s?$|est|ess|aquel|aquil|iss|ist|el[ae]s?$|aqui|aí|ali|um|onde|outr|entre")
NOT_WORDS = re.compile(r"\?\S|\?,|\? [a-zà-ý]")  # of commas that became question marks on their way
OF_NAMES = re.compile(r"(?:(?:[A-ZÀ-Ý]\S*|d[aeo]s?|e)\s*)+\.?")
SHOWN = (  # who is in a picture, by the beginning of the word
    "h[oô]me[mn]s? mulher menin garot rapaz moç jove[mn] criança pesso cachorr cã[eo] gat[oa] bebê senhor adolesc "
    r"grupo multid jogador trabalhador ciclist equipe time\b casal atleta músic banda tenist skat surf noiv policia "
    r"gar[çc] cavalo motoci corredor dança artist amig famíl cara\b anima bombeir soldad estudant alun chef cozinh "
    "fotógr palhaç"
)
OF_PICTURES = re.compile(
    rf"(?i)(?:h[áa] |\w+ )?(?:\w+ )?(?:{SHOWN.replace(' ', '|')})|"
    r"(?:um|uma|dois|duas|três|quatro|vári[oa]s|alg\w+) .*\b(?:em|n[oa]s?|num|numa|de|com|\w+ndo)\b"
)
OF_STORIES = re.compile(  # past tenses, and what a novel under copyright is recognized by
    r"(?i)\b(?!(?:[smtd]?eu|s?ou|vou|dou|estou|museu|europeu|judeu|ateu|lava|cava|brava|escrava|oitava)\b)"
    r"\w{2,}(?:ou|eu|iu|ei|ava|avam|aram|eram|iram)\b|"
    r"alquimi|ovelha|pirâmide|camel|oásis|deserto|caravana|tesouro|cristal|cristais|pastor|lenda|urim|simum|bedu|"
    r"esmeralda|falcão|falcões|egito|espadas?\b|presságio|o inglês|o velho|o garoto|o menino|cilindro|marcian|[\"“]"
)


def voices(data: bytes) -> Iterator[str]:
    """Yield the plain sentences of those that users gave to be read aloud.

    Among them are names, descriptions of pictures that seem to be translated from a set for judging, and lines of a
    novel under copyright. The file is in alphabetical order, so that these stand nowhere together: whatever looks like
    one of them is left out, 4 in 10 lines, and lines that have a question mark for each comma.
    """
    for line in lines(data):
        parts = (NOT_WORDS.search(line), OF_NAMES.fullmatch(line), OF_PICTURES.match(line), OF_STORIES.search(line))
        if not any(parts):
            yield line


def novel(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a novel, without the dashes of speech and the breaks of pages."""
    for paragraph in plain(data.replace(b"\x0c", b"\n\n")):
        yield re.sub(r"^\s*[—\u2013-]+\s*|\s[—\u2013]+\s*$", "", paragraph)


def tokens(data: bytes) -> Iterator[str]:
    """Yield the text of tokens with their parts of speech, one a line; a plus sign joins a token to the next."""
    words: list[str] = []
    first = ""  # a preposition or a verb that makes one word with the next
    for line in decode(data).split("\n"):
        word, _, kind = line.rpartition("_")
        if word:
            words.append(contracted(first, word) if first else word)
            first = words.pop() if kind.endswith("|+") else ""
    text = re.sub(r" ([.,;:!?%)\]»])", r"\1", " ".join(words)).replace("( ", "(").replace("« ", "«")
    yield re.sub(r'" ([^"]*?) "', r'"\1"', text)


def contracted(first: str, second: str) -> str:
    """Return two words, one where they are written as one.

    >>> contracted("Além de", "a"), contracted("Em", "este"), contracted("a", "as"), contracted("fazer", "se")
    ('Além da', 'Neste', 'às', 'fazer-se')
    """
    *others, last = first.split(" ")
    low = last.lower()
    if low in ("de", "em") and AFTER_DE.match(second):
        whole = {"de": "d", "em": "n"}[low] + second
    elif low == "por" and re.fullmatch("[oa]s?", second):
        whole = f"pel{second}"
    elif low == "a" and re.match("[oa]s?$|aquel|aquil", second):
        whole = f"a{second}" if second[0] == "o" else f"à{second[1:]}"
    else:
        clitic = len(low) > 3 and re.fullmatch("se|me|te|lhes?|nos|vos|[ln]?[oa]s?", second)
        return f"{first}{'-' if clitic else ' '}{second}"
    return " ".join([*others, whole.capitalize() if last[0].isupper() else whole])


def definitions(data: bytes) -> Iterator[str]:
    """Yield definitions of the Dicionário Aberto, of those entries that are no reference to another."""
    for entry in re.split(r"\n\s*\n", decode(data)):
        for line in entry.split("\n"):
            if not re.match(r"\s*[*_(]|O mesmo|Cf\.", line) and "Cf." not in line:
                yield line.replace("_", "")


def manual(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a manual page."""
    text = re.sub(r"\\f[A-Z]|\\\(..|\\&|\\", "", decode(gzip.decompress(data)))
    for paragraph in re.split(r"\n\.[A-Za-z]+.*\n|\n\s*\n", text):
        if not re.search(r"(?m)^[.']", paragraph):
            yield paragraph


def translations(language: str) -> Parser:
    """Yield the sentences of one language of a translation memory."""
    element = re.compile(rf'xml:lang="{language}">\s*<seg>(.*?)</seg>', re.S)
    return lambda data: (html.unescape(text) for text in element.findall(decode(data)))


def synonyms(data: bytes) -> Iterator[str]:
    """Yield the entries of a thesaurus."""
    yield from re.findall(r"(?m)^([^(\s|][^|\n]*)\|\d+$", decode(data))


def frequent(data: bytes) -> Iterator[str]:
    """Yield the most frequent words of a list with counts."""
    for line in decode(data).split("\n")[:MOST_FREQUENT]:
        word = line.split(" ")[0]
        if word.replace("-", "").isalpha():
            yield word


def entries(index: bytes) -> Iterator[tuple[str, int, list[int]]]:
    """Yield WordNet's entries of a part of speech: how many senses occur in its examples, and where each sense is."""
    for line in decode(index).split("\n"):
        if line and not line.startswith(" "):  # of the licence
            cells = line.split()
            after = 4 + int(cells[3])  # the symbols of its pointers
            yield cells[0], int(cells[after + 1]), [int(cell) for cell in cells[after + 2 :]]


def synsets(data: bytes, places: list[int]) -> list[str]:
    """Return the senses at these places of a file of WordNet."""
    return [data[i : data.index(b"\n", i)].decode() for i in places]


def definition(senses: list[str]) -> str:
    """Return the definitions of senses, without WordNet's examples."""
    return "; ".join(sense.split("|", 1)[1].split('"')[0].strip(" ;")[:90] for sense in senses)


def definitions_of_words(words: list[str], files: dict[str, bytes]) -> list[str]:
    """Return WordNet's definition of each word, with the word before it, or nothing.

    The part of speech is the one that WordNet's own examples have most often; its first two senses count.

    Args:
        words: English words in lower case; a plural has the definition of its singular.
        files: `index.noun`, `data.noun` and so on, by name.
    """
    senses: dict[str, tuple[int, str]] = {}  # of a word: how many senses occur in the examples, and the definition
    for kind in ("noun", "verb", "adj", "adv"):
        for word, often, places in entries(files[f"index.{kind}"]):
            if word not in senses or often > 3 * senses[word][0] + 1:
                senses[word] = (often, definition(synsets(files[f"data.{kind}"], places[:2])))
    found = []
    for word in words:
        endings = [("", ""), ("ies", "y"), ("es", ""), ("s", "")]
        forms = [word.removesuffix(old) + new for old, new in endings if word.endswith(old)]
        known = next((form for form in forms if form in senses), None)
        found.append(f"{word}: {senses[known][1]}" if known and len(word) > 2 else "")
    return found


def definitions_of_places(files: dict[str, bytes]) -> dict[str, str]:
    """Return WordNet's definitions of names of places, with the name before each, by the name in lower case.

    A name that is also another word is left out.

    Args:
        files: As `definitions_of_words` takes them.
    """
    others = {word for kind in ("verb", "adj", "adv") for word, _, _ in entries(files[f"index.{kind}"])}
    found = {}
    for word, _, places in entries(files["index.noun"]):
        senses = synsets(files["data.noun"], places) if word not in others else []
        if not senses or any(sense.split(" ", 2)[1] != LOCATIONS for sense in senses):
            continue
        names = senses[0].split(" | ")[0].split()[4::2]
        name = next((name for name in names if name.lower() == word and name[0].isupper()), None)
        if name is not None:
            found[word] = f"{name}: {definition(senses[:2])}"
    return found


def without_accents(word: str) -> str:
    """Return a word without the marks on its letters."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def headwords(data: bytes) -> Iterator[str]:
    """Yield the entries of a dictionary that has the sound of each."""
    yield from re.findall(r"(?m)^(\S.*?) /[^/\n]+/", decode(gzip.decompress(data)))


def debian(name: str, version: str, files: str, parser: Parser, licence: str, kind: str, most: int) -> Source:
    """Return the part of a package that is in Portuguese."""
    return Source(name, version, files, parser, licence, kind, most=most, portuguese=True)


def treebank(name: str, commit: str, files: str, licence: str, kind: str) -> Source:
    """Return a treebank of Universal Dependencies."""
    return Source(f"UniversalDependencies/UD_Portuguese-{name}", commit, files, conllu, licence, kind, portuguese=True)


def novels(name: str, commit: str, files: str) -> Source:
    """Return novels whose authors died before 1913."""
    return Source(name, commit, files, novel, OLD, "fiction", most=8000, portuguese=True)


HELP = r"usr/share/libreoffice/help/pt(-BR)?/text/(swriter|scalc|shared|simpress)/.*\.html"
PORTUGUESE_SOURCES = [
    Source(
        "mozilla/voice-web",
        "e0bfbc4be9eb6a97f7dd92eb938200f09f04ba96",
        r"server/data/pt/sentence-collector\.txt",
        voices,
        CC0,
        "read-aloud sentences",
        portuguese=True,
    ),
    treebank(
        "Bosque",
        "5de7ac34028ff6d1718031a4b0ae895717ed8dbe",
        r"not-to-release/documents/.*\.conllu|pt_bosque-ud-(dev|test)\.conllu",
        BY_SA,
        "news",
    ),
    treebank(
        "GSD",
        "691a8b597cc37e1c822ba808244c8eaca498eeb2",
        r"not-to-release/documents/.*\.conllu|pt_gsd-ud-(dev|test)\.conllu",
        BY_SA,
        "news and blogs",
    ),
    treebank(
        "Porttinari", "87a07e1fb761d6d0a6e2a4d82b11b308344dabb9", r"pt_porttinari-ud-(dev|test)\.conllu", BY, "news"
    ),
    treebank(
        "PetroGold",
        "35ab03a7309c8dd3cc440432e07bf4c31670720d",
        r"pt_petrogold-ud-(dev|test)\.conllu",
        BY_SA,
        "geology",
    ),
    Source(
        "nltk/nltk_data",
        "5db857e6f7df11eabb5e5665836db9ec8df07e28",
        r"packages/corpora/mac_morpho\.zip",
        zipped(r"mac_morpho/[a-z]+94.*\.txt", tokens),
        BY,
        "news",
        portuguese=True,
    ),
    Source(
        "nunorc/squad-v1.1-pt",
        "da73fd9d7ae32ab063882c02e4be3bfda4a12193",
        r"docs/sample-v1\.1-pt\.json",
        json_strings("question", "context"),
        BY_SA,
        "encyclopaedia and questions",
        portuguese=True,
    ),
    Source(
        "rhasspy/piper-recording-studio",
        "b3b0e6972f639ac0cd6e8374d8c08c0612404a33",
        r"prompts/Portuguese.*\.txt",
        columns(1),
        "MIT",
        "read-aloud sentences",
        portuguese=True,
    ),
    Source(
        "peluz/lener-br",
        "4999cb7f63191f1d6904206f312eeca8f5b45c5a",
        r"leNER-Br/raw_text/.*\.txt",
        plain,
        "public acts",
        "law",
        most=3000,
        portuguese=True,
    ),
    Source(
        "hermitdave/FrequencyWords",
        "525f9b560de45753a5ea01069454e72e9aa541c6",
        r"content/2018/pt(_br)?/pt(_br)?_50k\.txt",
        frequent,
        BY_SA,
        LEMMAS,
        portuguese=True,
    ),
    novels(
        "trocadilho/Contador-de-caracteres",
        "7209cf056aee07189630a22fcf4a9edae8b47fab",
        r"(a_pata_da_gazela|cinco_minutos|dom_casmurro|iracema|o_ateneu|o_cortiço|o_primo_basilio)\.txt",
    ),
    novels(
        "gfjallais/Trabalho_Pratico_Algoritmos_II",
        "6248e6a590e44e641a79c06a1c4571a70a85974e",
        r"entrada/(a_cidade_e_as_serras|a_reliquia|memorias_postumas|quincas_borba)\.txt",
    ),
    Source(
        "ambs/Dicionario-Aberto",
        "6506959f9bb7dcf4207e338df3ef895e692731f2",
        r"Resources/txts\.zip",
        zipped(r"txts/[A-Z]\.txt", definitions),
        OLD,
        "definitions and examples",
        most=4000,
        portuguese=True,
    ),
    Source(
        "tico-19/tico-19.github.io",
        "d97615f9cffa28ec7de571e00fbd513e5a1c7fc7",
        r"data/TM/all\.en-pt-BR\.tmx\.zip",
        zipped(r".*\.tmx", translations("pt-BR")),
        CC0,
        "health",
        portuguese=True,
    ),
    debian("libreoffice-help-pt", "4:7.4.7-1+deb12u14", HELP, markup("p"), "MPL-2.0", "help", 1500),
    debian("libreoffice-help-pt-br", "4:7.4.7-1+deb12u14", HELP, markup("p"), "MPL-2.0", "help", 1500),
    debian("gimp-help-pt", "2.10.34-2", r"usr/share/gimp/.*\.html", markup("p"), "GFDL-1.2+", "help", 1000),
    debian("gimp-help-pt-br", "2.10.34-2", r"usr/share/gimp/.*\.html", markup("p"), "GFDL-1.2+", "help", 1000),
    debian("debian-reference-pt", "2.100", r"usr/.*\.pt\.html", markup("p"), "GPL-2+", "computing", 1000),
    debian("debian-faq-pt", "11.1", r"usr/.*\.html", markup("p"), "GPL-2+", "computing", 1000),
    debian("manpages-pt-br", "4.18.1-1", r"usr/share/man/pt_BR/.*\.gz", manual, "GPL-3+", "computing", 1000),
    debian(
        "fortunes-br", "20220821", r"usr/share/games/fortunes/brasil", fortunes, "GPL-2+", "sayings and jokes", 5000
    ),
    debian("mythes-pt-pt", "1:7.5.0-1", r"usr/share/mythes/.*\.dat", synonyms, "LGPL-2.1+", LEMMAS, 4000),
    debian("mythes-pt-br", "1:7.5.0-1", r"usr/share/mythes/.*\.dat", synonyms, "LGPL-2.1+", LEMMAS, 4000),
    debian(
        "dict-freedict-por-eng", "2022.04.21-1", r"usr/share/dictd/.*\.dict\.dz", headwords, "GPL-2+", LEMMAS, 4000
    ),
    replace(
        treebank("PUD", "be08a756d76bd79bf5d4a492dfdc28b46b33e76e", r".*\.conllu", BY_SA, "encyclopaedia"),
        held_out=True,
    ),
    Source(
        "MicrosoftTranslator/NTREX",
        "8561f6a622db9edad1217683e5c83daefd8bb2bf",
        r"NTREX-128/newstest2019-ref\.por\.txt",
        lines,
        BY_SA,
        "news of Portugal",
        held_out=True,
        portuguese=True,
    ),
    Source(
        "MicrosoftTranslator/NTREX",
        "8561f6a622db9edad1217683e5c83daefd8bb2bf",
        r"NTREX-128/newstest2019-ref\.por-BR\.txt",
        lines,
        BY_SA,
        "news of Brazil",
        held_out=True,
        portuguese=True,
    ),
    Source(
        "facebookresearch/LASER",
        "74bc6ae7ffb7cba670fe0f428d0ede9f666fb821",
        r"data/tatoeba/v1/.*\.por",
        lines,
        "CC-BY-2.0-FR",
        "everyday statements",
        held_out=True,
        portuguese=True,
    ),
    Source(
        "global-asp/asp-source",
        "99e022369a980bd52bce8c6f86d5f24e9a4ada9d",
        r"pt/.*\.md",
        stories,
        BY,
        "picture books",
        held_out=True,
        portuguese=True,
    ),
]
