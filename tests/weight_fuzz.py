"""Damages valid weights files at random and tries to load them.

The only allowed outcomes are a loaded network or NSTError, in little time and little memory.
"""

import io
import random
import time
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from weight_files import FORMATS, oxford_net

from nst_manual.errors import NSTError
from nst_manual.weights import load_weights
from nst_manual.weights.commands import inspect

TELLING = (0, 1, 127, 128, 255)
NUMBERS = tuple(
    number % (1 << 64)
    for number in (0, 1, -1, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 62, 1 << 63, -8, 3, 65536)
)
SECONDS, MEMORY = 5.0, 8 << 20  # limits for one case; the files have 7 to 40 kB


@dataclass
class Outcomes:
    """How the cases ended, and the most time and memory that one took."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def small_files(folder: Path) -> dict[str, bytes]:
    """One file of each format, with only conv1_1."""
    net = oxford_net(["conv1_1"])
    files = {}
    for name, build in FORMATS.items():
        build(folder / name, net)
        files[name] = (folder / name).read_bytes()
    return files


def telling_places(data: bytes) -> list[int]:
    """The places of a file's structure rather than its numbers: surrounded by text, zeros or small bytes."""
    codes = np.frombuffer(data, np.uint8)
    plain = (codes < 8) | ((codes >= 32) & (codes < 127)) | (codes == 128) | (codes == 255)
    dense = np.convolve(plain, np.ones(9), "same") >= 7
    return [int(place) for place in np.flatnonzero(dense)] or list(range(len(data)))


def mutated(data: bytes, places: list[int], rng: random.Random) -> bytes:
    """One to eight changes: bytes, numbers of 2, 4 or 8 bytes, parts cut, doubled or moved, an early end."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.choice(places) if rng.random() < 0.85 else rng.randrange(len(data))
        at = min(at, len(changed) - 1)
        kind = rng.randrange(9)
        if kind <= 2:
            changed[at] = rng.choice((*TELLING, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)))
        elif kind <= 4:
            size = rng.choice((2, 4, 8))
            number = rng.choice(NUMBERS) & (1 << 8 * size) - 1
            changed[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 5:
            del changed[at : at + rng.randrange(1, 64)]
        elif kind == 6:
            source = rng.choice(places)
            changed[at : at + 16] = data[source : source + 16]
        elif kind == 7:
            length = rng.randrange(1, 64)
            changed[at:at] = changed[at : at + length]
        elif rng.random() < 0.3:
            del changed[at:]
        if not changed:
            return data[:1]
    return bytes(changed)


def mutated_inside(data: bytes, rng: random.Random) -> bytes:
    """A zip archive with one damaged entry but correct checksums, so that the code behind them is tried too."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry: archive.read(entry) for entry in archive.infolist()}
    victim = rng.choice([entry for entry, content in entries.items() if len(content) > 4])
    if any(entry.filename.endswith("data.pkl") for entry in entries) and rng.random() < 0.8:
        victim = next(entry for entry in entries if entry.filename.endswith("data.pkl"))
    content = entries[victim]
    places = list(range(min(len(content), 128))) if victim.filename.endswith(".npy") else telling_places(content)
    entries[victim] = mutated(content, places, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return out.getvalue()


def attempt(path: Path, data: bytes, outcomes: Outcomes) -> None:
    """Loads one damaged file. Any exception from here is a finding."""
    path.write_bytes(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    began = time.perf_counter()
    refusal, weights = None, None
    try:
        if outcomes.counts.total() % 8 == 0:
            inspect(path)
        weights = load_weights(path, ["conv1_1"])
    except NSTError as error:
        refusal = str(error)
    seconds, memory = time.perf_counter() - began, tracemalloc.get_traced_memory()[1] - before
    if weights is not None:
        kernel, bias = weights.filters["conv1_1"]
        assert kernel.shape == (3, 3, 3, 64)
        assert bias.shape == (64,)
        assert np.isfinite(kernel).all()
        assert np.isfinite(bias).all()
    else:
        assert refusal
        assert "\n" not in refusal
        outcomes.reasons[refusal.partition(": ")[2][:60]] += 1
    outcomes.counts["refused" if weights is None else "loaded"] += 1
    outcomes.slowest, outcomes.largest = max(outcomes.slowest, seconds), max(outcomes.largest, memory)
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert memory < MEMORY, f"{memory} bytes"


def fuzz(folder: Path, seed: int, cases: int, formats: list[str] | None = None) -> Outcomes:
    """Tries `cases` damaged files of each format. A failing case stays in the folder; the error's notes name it."""
    outcomes = Outcomes()
    tracemalloc.start()
    try:
        for name, data in small_files(folder).items():
            if formats and name not in formats:
                continue
            rng, places = random.Random(f"{seed} {name}"), telling_places(data)
            for case in range(cases):
                path = folder / "damaged"
                inside = data.startswith(b"PK") and rng.random() < 0.7
                damaged = mutated_inside(data, rng) if inside else mutated(data, places, rng)
                try:
                    attempt(path, damaged, outcomes)
                except BaseException as error:
                    kept = path.rename(folder / f"{name}-{seed}-{case}.failed")
                    error.add_note(f"case {case} of seed {seed}, format {name}: {kept}")
                    raise
    finally:
        tracemalloc.stop()
    return outcomes
