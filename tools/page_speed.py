"""Iterations per second of a run with its page open in a browser, and without.

    python tools/page_speed.py CONTENT STYLE [--size 512] [--iterations 60] [--pairs 3]

Runs `nst_manual transfer` twice in turn, as often as --pairs says: once alone, and once with --page, which Chromium has
open and draws. Both make the same picture. It compares the iterations from when the browser has been open for a few
seconds, and the same ones of the other run, and prints each pair's rates and the median of their ratios; 0.95 is the
least that is tolerated. It needs Selenium, Chromium and its driver.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LEAST = 0.95
SETTLED = 4.0  # seconds that a browser needs after it is open
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("content")
    parser.add_argument("style")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rest", nargs=argparse.REMAINDER, default=[], help="more options of transfer")
    given = parser.parse_args()
    ratios = []
    for number in range(given.pairs):
        with tempfile.TemporaryDirectory() as folder:
            order = (False, True) if number % 2 else (True, False)
            found = {page: ticks(given, Path(folder), page) for page in order}
        first = found[True][1]
        alone, shown = ((len(s) - 1 - first) / (s[-1] - s[first]) for s in (found[False][0], found[True][0]))
        ratios.append(shown / alone)
        print(json.dumps({"from": first, "alone": alone, "with page": shown, "ratio": ratios[-1]}), flush=True)
    ratio = statistics.median(ratios)
    print(f"iterations per second with a page, of those without: {ratio:.3f} (median of {len(ratios)})")
    return 0 if ratio >= LEAST else 1


def ticks(given: argparse.Namespace, folder: Path, page: bool) -> tuple[list[float], int]:
    """When each iteration of a run was done, and the first one with the browser open and at rest."""
    trace = folder / f"{page}.jsonl"
    words = [given.content, given.style, "-o", str(folder / f"{page}.png"), "--trace", str(trace)]
    words += ["--size", str(given.size), "--scales", "off", "--iterations", str(given.iterations), *given.rest]
    command = [sys.executable, "-m", "nst_manual", "transfer", *words, *(["--page"] if page else [])]
    browser: Any = None
    first = 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"page: (\S+)", line):
                browser = opened(found[1])
                time.sleep(SETTLED)
                first = trace.read_text(encoding="utf-8").count("\n") if trace.exists() else 0
        if process.wait():
            raise SystemExit(f"the run failed: {' '.join(command)}")
    if browser is not None:
        browser.quit()
    return [json.loads(line)["seconds"] for line in trace.read_text(encoding="utf-8").splitlines()], first


def opened(address: str) -> Any:
    """Chromium at that address."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.get(address)
    return browser


if __name__ == "__main__":
    sys.exit(main())
