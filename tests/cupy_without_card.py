"""CuPy itself where there is no card: the CUDA runtime within its wheel is replaced, in memory, by no_card.c.

No kernel runs, so no number means anything; but the arrays, pools, captures, compilation and packing of arguments are
CuPy's own. Linux only, with a C compiler and `nm`. `python cupy_without_card.py FOLDER` tries the self-test's trials on
it and prints, as JSON, the errors that Python saw, the seconds, and what became of a graph's memory.
"""

import ctypes
import gc
import importlib
import io
import json
import logging
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from small_trials import NETWORK, TABLES

from nst_manual.engines.cuda import trials
from nst_manual.engines.cuda.device import Device
from nst_manual.engines.cuda.graph import Repeated
from nst_manual.engines.cuda.paths import PATHS
from nst_manual.engines.cuda.self_test import Guarded

WAYS = (("plain", "float32"), ("products", "float32"), ("fused", "float32"))
STUBS = {"libcuda.so.1": "cu[A-Z]", "libcublasLt.so.12": "cublas[A-Z]", "libcublas.so.12": "cublas[A-Z]"}


def replaced(folder):
    """CuPy on the host's memory, and the counters of no_card.c."""
    site = Path(find_spec("cupy").origin).parents[1]
    preload_nvrtc(site)
    given = Path(__file__).with_name("no_card.c").read_text(encoding="utf-8")
    words = "\n".join(
        text.decode()
        for file in site.glob("cupy_backends/cuda/**/*.so")
        for text in re.findall(rb"[\w]{5,}", file.read_bytes())
    )
    for name, kind in STUBS.items():  # CuPy looks these up by name
        more = sorted(set(re.findall(rf"^{kind}\w*$", words, re.M)) - set(re.findall(r"(\w+)\(", given)))
        library = built(folder, name, given + "\n".join(f"int {function}() {{ return 0; }}" for function in more))
    runtime = importlib.import_module("cupy_backends.cuda.api.runtime").__file__
    base = min(
        int(line.split("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines() if runtime in line
    )
    symbols = subprocess.run(["nm", runtime], capture_output=True, text=True, check=True).stdout
    ours = built(folder, "runtime.so", given)
    for address, function in re.findall(r"^(\w+) [tT] (cuda[A-Z]\w*)$", symbols, re.M):
        try:
            target = getattr(ours, f"no_{function}")
        except AttributeError:
            target = ours.does_nothing
        jump_to(base + int(address, 16), ctypes.cast(target, ctypes.c_void_p).value)
    return importlib.import_module("cupy"), ours, library


def preload_nvrtc(site):
    """NVRTC looks for the driver at its first compilation: that must be over before there seems to be one."""
    for file in site.glob("nvidia/*/lib/libnvrtc.so*"):
        nvrtc, program = ctypes.CDLL(str(file)), ctypes.c_void_p()
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), b"", b"empty.cu", 0, None, None)
        nvrtc.nvrtcCompileProgram(program, 0, None)


def built(folder, name, text):
    code, library = folder / f"{name}.c", folder / name
    code.write_text(text, encoding="utf-8")
    options = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{name}"]
    subprocess.run(["cc", *options, "-o", library, code], check=True)
    return ctypes.CDLL(str(library))


def jump_to(address, target):
    page = address // 4096 * 4096
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * 4096), 7)
    code = b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"  # mov rax, target; jmp rax
    ctypes.memmove(address, code, len(code))


def errors(cupy, path, precision):
    make, found = PATHS[path], []
    engine = make(precision, cupy, Guarded)
    for trial in trials.trials(engine, lambda: make(precision, cupy), **NETWORK):
        engine.device.arrays = []
        try:
            list(trial.pairs())
            engine.device.overwritten()
        except Exception as error:
            found.append(f"{path}, {precision}, {trial.name}: {type(error).__name__}: {error}")
    return found


def memory_of_a_graph(cupy, ours):
    """Whether it stays while the graph lives, and how many pieces of it are left when the graph is gone."""

    def function(image):
        return image.sum(), image * 2 + 1, {}

    def live():
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return ctypes.c_long.in_dll(ours, "live").value

    image = cupy.ones((64, 64, 3), "float32")
    function(image)
    before = live()
    repeated = Repeated(Device(cupy), function)
    repeated(image)
    recorded = repeated.graph is not None
    own = 1  # the image that the graph reads has memory of CuPy's own pool
    stays = live() - before > own
    del repeated
    return {"recorded": recorded, "stays": stays, "left": live() - before}


def without_memory_to_record(cupy):
    """What becomes of an evaluation whose recording would need more memory than the card has."""
    kept, said = [], logging.StreamHandler(io.StringIO())

    def function(image):
        kept.append(cupy.empty(1 << 20))
        return image.sum(), image * 2, {}

    logging.getLogger("nst_manual").addHandler(said)
    logging.getLogger("nst_manual").setLevel(logging.INFO)
    cupy.cuda.runtime.memGetInfo = lambda: (1 << 20, 8 << 30)
    Repeated(Device(cupy), function)(cupy.ones((64, 64, 3), "float32"))
    return said.stream.getvalue().strip()


def main():
    for name, value in TABLES.items():
        setattr(trials, name, value)
    cupy, ours, _ = replaced(Path(sys.argv[1]))
    began = time.perf_counter()
    found = [error for way in WAYS for error in errors(cupy, *way)]
    record = {"errors": found, "seconds": time.perf_counter() - began, "graph": memory_of_a_graph(cupy, ours)}
    record["too little memory"] = without_memory_to_record(cupy)
    sys.stdout.write(json.dumps({"cupy": cupy.__version__, **record}) + "\n")


if __name__ == "__main__":
    main()
