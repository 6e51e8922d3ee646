"""Verdicts: whether a path computes right on a card. They are found by the self-test and kept in the user's cache.

A verdict holds for one card and driver, these versions of CuPy and its libraries, one precision and this source code.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from ...errors import NSTError
from ...pictures.files import written

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[2]
# What results depend on.
SOURCES = ("layers.py", "losses.py", "roots.py", "vgg.py", "engines/*.py", "engines/cuda/*", "engines/cuda/kernels/*")
SELF_TEST = "nst_manual.engines.cuda.self_test"
LONGEST = 300  # seconds, compilation included


@dataclass(frozen=True)
class Verdict:
    path: str
    precision: str
    faults: tuple[str, ...]  # a sentence each
    tried: int = 0
    seconds: float = 0.0
    lasts: bool = True  # a fault that may be gone next time, such as a full memory, is not kept

    @property
    def passed(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        if self.passed:
            return f"{self.path}: passed, {self.tried} trials in {self.seconds:.1f} s"
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        return f"{self.path}: FAILED, {self.faults[0]}{more}"


def verdict_of(path: str, precision: str, cupy: Any, anew: bool = False) -> Verdict:
    """The kept verdict, or that of a new self-test on CuPy's current device."""
    number, facts = int(cupy.cuda.Device().id), circumstances(cupy)
    file = folder() / f"{path}-{precision}-{_digest(json.dumps(facts, sort_keys=True).encode())}.json"
    if not anew and (kept := _kept(file)):
        return kept
    said = "engine: testing %s's %s path in %s before its first use: once, with compilation up to two minutes"
    log.info(said, facts["card"], path, precision)
    verdict = tested(path, precision, number)
    if verdict.lasts:
        _keep(file, {**asdict(verdict), "on": facts})
    return verdict


def folder() -> Path:
    """Where verdicts are kept."""
    cache = os.environ.get("NST_MANUAL_CACHE") or platformdirs.user_cache_dir("nst_manual", appauthor=False)
    return Path(cache) / "cuda"


def circumstances(cupy: Any) -> dict[str, str]:
    """All that a verdict depends on."""
    cuda = cupy.cuda
    device = cuda.Device()
    facts = {
        "card": lambda: str(cuda.runtime.getDeviceProperties(device.id)["name"], "utf-8"),
        "capability": lambda: device.compute_capability,
        "driver": cuda.runtime.driverGetVersion,
        "driver's build": lambda: Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0],
        "runtime": cuda.runtime.runtimeGetVersion,
        "CuPy": lambda: cupy.__version__,
        "NVRTC": lambda: ".".join(map(str, cuda.nvrtc.getVersion())),
        "cuBLAS": lambda: cuda.cublas.getVersion(cuda.device.get_cublas_handle()),
        "source": source_digest,
    }
    found = {}
    for name, ask in facts.items():
        try:
            found[name] = str(ask())
        except Exception:  # not told by this system, this CuPy or this card
            found[name] = "unknown"
    return found


def source_digest() -> str:
    files = sorted(file for pattern in SOURCES for file in PACKAGE.glob(pattern) if file.is_file())
    return _digest(b"".join(file.name.encode() + file.read_bytes() for file in files))


def tested(path: str, precision: str, number: int) -> Verdict:
    """The verdict of a self-test in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-m", SELF_TEST, path, precision, str(number)]
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}
    said, ended, lasts = "", "", True
    try:
        run = subprocess.run(command, capture_output=True, timeout=LONGEST, check=False, env=environment)
        said = run.stdout.decode("utf-8", "replace")
        complaint = run.stderr.decode("utf-8", "replace").strip().splitlines()
        ended = f"its process ended with code {run.returncode}" + (f" ({complaint[-1]})" if complaint else "")
    except subprocess.TimeoutExpired as error:
        said, ended = (error.stdout or b"").decode("utf-8", "replace"), f"it took more than {LONGEST} s"
        lasts = False  # others may have used the card
    except OSError as error:
        ended = f"its process can't be started ({error})"
    verdict = judged(path, precision, list(_records(said)), ended, time.perf_counter() - began)
    return replace(verdict, lasts=verdict.lasts and lasts)


def judged(path: str, precision: str, records: list[dict[str, Any]], ended: str, seconds: float) -> Verdict:
    """What a self-test's records amount to; `ended` says how it ended, where it did not say that it is done."""
    faults, lasts, trial = [], True, "its start"
    for record in records:
        trial = record.get("begin", trial)
        if "fault" in record:
            faults.append(f"{trial}: {record['fault']}")
            lasts = lasts and record.get("lasts", True)
    tried = next((record["done"] for record in records if "done" in record), None)
    if tried is None:
        faults.append(f"{trial}: {ended}")
    elif not tried and not faults:
        faults.append("nothing was tried")
    return Verdict(path, precision, tuple(faults), tried or 0, seconds, lasts)


def _records(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def _kept(file: Path) -> Verdict | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        del record["on"]
        return Verdict(**{**record, "faults": tuple(record["faults"])})
    except (OSError, ValueError, TypeError, LookupError):  # none yet, or damaged
        return None


def _keep(file: Path, record: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written(file, "w") as stream:
            json.dump(record, stream, indent=1)
    except (OSError, NSTError) as error:
        log.info("engine: the verdict can't be kept (%s)", error)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
