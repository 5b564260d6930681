"""Files that the real hf_xet client wrote to a folder, put together again.

hf_xet accepts `local://FOLDER` as the address of its storage service. It then writes shards (*.mdb), which list each
file as runs of chunks and carry its sha256, and xorbs, which hold the chunks. Formats: xet-core, `mdb_shard` and
`cas_object`. Each upload gets a folder of its own, because hf_xet locks it; so nothing is shared between uploads.
"""

import hashlib
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lz4.frame


SHARD_HEADER = ENTRY = 48  # bytes
END_OF_FILES = b"\xff" * 32
HAS_METADATA, HAS_VERIFICATION = 1 << 30, 1 << 31
STORED, LZ4, LZ4_GROUPED = range(3)


class Term(NamedTuple):
    """A run of chunks of one xorb."""

    xorb: Path
    first: int
    end: int


class XetFolder:
    """Every upload's folder, beneath one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def new_address(self) -> str:
        """Return an address for one upload."""
        return f"local://{self.root / secrets.token_hex(6)}"

    def export(self, sha256: str, folder: Path) -> bool:
        """Write the file with this hash to `folder / sha256`, if it was uploaded; whether it is there."""
        for shard in self.root.glob("*/xet/xorbs/shards/*.mdb"):
            for found, terms in _files(shard.read_bytes(), shard.parent.parent / "xorbs"):
                data = b"".join(_chunks(terms)) if found == sha256 else b""
                if found == sha256 and hashlib.sha256(data).hexdigest() == sha256:
                    partial = folder / f"{sha256}.{secrets.token_hex(4)}"
                    partial.write_bytes(data)
                    os.replace(partial, folder / sha256)
                    return True
        return False


def _files(shard: bytes, xorbs: Path) -> Iterator[tuple[str, list[Term]]]:
    at = SHARD_HEADER
    while shard[at : at + 32] != END_OF_FILES:
        flags, n_terms = struct.unpack_from("<II", shard, at + 32)
        terms = []
        for i in range(1, n_terms + 1):
            start = at + i * ENTRY
            _, _, first, end = struct.unpack_from("<IIII", shard, start + 32)
            terms.append(Term(xorbs / f"default.{_hash(shard[start : start + 32])}", first, end))
        at += ENTRY * (1 + n_terms * (2 if flags & HAS_VERIFICATION else 1))
        if flags & HAS_METADATA:
            yield _hash(shard[at : at + 32]), terms
            at += ENTRY


def _chunks(terms: list[Term]) -> Iterator[bytes]:
    for term in terms:
        xorb, at = term.xorb.read_bytes(), 0
        for i in range(term.end):  # version, compressed size (3 bytes), scheme, size (3 bytes)
            packed, scheme = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
            size = int.from_bytes(xorb[at + 5 : at + 8], "little")
            if i >= term.first:
                yield _unpack(xorb[at + 8 : at + 8 + packed], scheme, size)
            at += 8 + packed


def _unpack(data: bytes, scheme: int, size: int) -> bytes:
    if scheme != STORED:
        data = lz4.frame.decompress(data)
    if scheme == LZ4_GROUPED:  # bytes 0, 4, 8, ..., then 1, 5, 9, ...
        mixed, at = bytearray(size), 0
        for residue in range(4):
            n = (size - residue + 3) // 4
            mixed[residue::4], at = data[at : at + n], at + n
        data = bytes(mixed)
    return data


def _hash(raw: bytes) -> str:
    """Write a hash as xet does: four little-endian 64-bit numbers."""
    return "".join(raw[i : i + 8][::-1].hex() for i in range(0, 32, 8))
