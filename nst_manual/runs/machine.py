"""How much memory this process uses and the machine has, asked of each operating system; None if it can't be told."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Resident(NamedTuple):
    """Bytes of this process in memory: now, and the most so far."""

    now: int
    peak: int


def resident() -> Resident | None:
    """This process's memory; on macOS both numbers are the most so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        if "VmRSS" in lines and "VmHWM" in lines:
            return Resident(*(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")))
    if sys.platform == "win32":
        return _resident_on_windows()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Resident(peak, peak)


def physical() -> int | None:
    """Bytes of the machine's memory, or of its container's if that has a lower limit."""
    if sys.platform == "win32":
        return _physical_on_windows()
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    known: dict[str, int] = getattr(os, "sysconf_names", {})
    limits = [os.sysconf(names[0]) * os.sysconf(names[1])] if all(name in known for name in names) else []
    container = Path("/sys/fs/cgroup/memory.max")
    if container.is_file() and (text := container.read_text(encoding="ascii").strip()).isdigit():
        limits.append(int(text))
    return min((limit for limit in limits if limit > 0), default=None)


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = [("size", ctypes.c_uint32), ("faults", ctypes.c_uint32)] + [
        (name, ctypes.c_size_t) for name in ("peak", "now", *(f"other{k}" for k in range(6)))
    ]


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = [("size", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64) for name in ("physical", *(f"other{k}" for k in range(6)))
    ]


def _resident_on_windows() -> Resident | None:
    kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    counters = _Counters()
    counters.size = ctypes.sizeof(counters)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
    if not ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        return None
    return Resident(counters.now, counters.peak)


def _physical_on_windows() -> int | None:
    kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    status = _MemoryStatus()
    status.size = ctypes.sizeof(status)
    return status.physical if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None
