"""A device that is not the host, made of the host: arrays that NumPy's functions work on as on CuPy's, and as much of
CuPy as the CUDA engine uses, whose kernels are kernels.cu compiled by the machine's C++ compiler (cuda_on_host.h)."""

import contextlib
import ctypes
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np


class OnDevice(np.lib.mixins.NDArrayOperatorsMixin):
    """What CuPy's arrays are to NumPy: functions and operators run over there, nothing comes to the host or goes there
    unasked, and `tolist` or `float` fetches. Without a GPU it proves that no vector leaves the device."""

    fetches = 0
    recording = None  # a list, while a graph is recorded

    def __init__(self, array):
        self.array = array

    def __array__(self, *args, **kwargs):
        raise TypeError("an implicit copy to the host")

    __bool__ = __iter__ = __array__

    def __float__(self):
        return self._fetched("item")()

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return self._there(getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return self._there(function, args, kwargs)

    @classmethod
    def _there(cls, function, args, kwargs):
        def inside(value, may_be_host):
            if isinstance(value, cls):
                return value.array
            if isinstance(value, list | tuple) and any(isinstance(item, cls) for item in value):
                return type(value)(inside(item, False) for item in value)
            if isinstance(value, np.ndarray) and not may_be_host:
                raise TypeError("an implicit copy to the device")
            return value

        kwargs = {name: inside(value, False) for name, value in kwargs.items()}
        uploads = function is np.asarray
        return cls.compute(lambda: function(*(inside(arg, uploads) for arg in args), **kwargs))

    @classmethod
    def compute(cls, action):
        """The array that the action makes; while a graph is recorded, only the graph's launches make it."""
        result = np.asarray(action())
        if cls.recording is not None:
            cls.recording.append(lambda: np.copyto(result, action()) if result.size else None)
            if result.base is None:
                result.fill(77)
        return cls(result)

    @classmethod
    def do(cls, action):
        """An action that changes memory: at once, or when the graph that is recorded is launched."""
        cls.recording.append(action) if cls.recording is not None else action()

    def __getitem__(self, key):
        return OnDevice(self.array[key])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise TypeError("an implicit copy to the device")
        value = value.array if isinstance(value, OnDevice) else value
        self.do(lambda: self.array.__setitem__(key, value))

    def __len__(self):
        return len(self.array)

    def _fetched(self, name):
        assert OnDevice.recording is None, "a fetch while a graph is recorded"
        OnDevice.fetches += 1
        return getattr(self.array, name)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.array.ctypes.data)

    def set(self, values):
        np.copyto(self.array, values)

    def __getattr__(self, name):
        attribute = getattr(self.array, name)
        if name in ("shape", "dtype", "size", "ndim"):
            return attribute
        if name == "tolist":
            return self._fetched(name)
        assert name in ("reshape", "astype", "copy", "sum", "mean", "swapaxes", "view"), name
        if name in ("reshape", "swapaxes", "view"):
            return lambda *args, **kwargs: OnDevice(attribute(*args, **kwargs))
        return lambda *args, **kwargs: self.compute(lambda: np.asarray(attribute(*args, **kwargs)))


# ---- As much of CuPy as the engine uses


class Graph:
    launches = 0

    def __init__(self, actions):
        self.actions = actions

    def launch(self, stream=None):
        Graph.launches += 1
        for action in self.actions:
            action()


class Stream:
    def __init__(self, non_blocking=False):
        self.non_blocking = non_blocking

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def synchronize(self):
        pass

    def begin_capture(self):
        assert self.non_blocking, "the default stream can't be recorded"
        OnDevice.recording = []

    def end_capture(self):
        actions, OnDevice.recording = OnDevice.recording, None
        return Graph(actions)


class Cupy:
    """The module. `kernels` runs kernels; `allocated` counts arrays, `total` is the device's memory."""

    __version__ = "stand-in"

    def __init__(self, kernels, runtime=13000, devices=1, multiprocessors=3):
        self.kernels, self.allocated, self.total, self.used = kernels, 0, 8 << 30, 0
        self.backward = False  # the order in which a block's threads run: no result may depend on it
        self.launched = []
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(
                id=0,
                synchronize=lambda: None,
                attributes={"MultiProcessorCount": multiprocessors, "MaxSharedMemoryPerBlockOptin": 99 << 10},
                compute_capability="90",
            ),
            Stream=Stream,
            MemoryPool=lambda: SimpleNamespace(malloc=None, free_all_blocks=lambda: None),
            using_allocator=lambda malloc: contextlib.nullcontext(),
            get_current_stream=Stream,
            runtime=SimpleNamespace(
                runtimeGetVersion=lambda: runtime,
                getDeviceCount=lambda: devices,
                getDeviceProperties=lambda number: {"name": b"a CPU"},
                driverGetVersion=lambda: 13000,
                memGetInfo=lambda: (self.total // 8, self.total),
            ),
            cublas=SimpleNamespace(sgemmStridedBatched=self._products),
            device=SimpleNamespace(get_cublas_handle=lambda: 1),
        )

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: None)

    def empty(self, shape, dtype=float):
        self.allocated += 1
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xFF)  # NaN
        return OnDevice(array)

    def zeros(self, shape, dtype=float):
        zeros = self.empty(shape, dtype)
        zeros[...] = 0
        return zeros

    def ones(self, shape, dtype=float):
        return OnDevice(np.ones(shape, dtype))

    def asarray(self, array, dtype=None):
        if isinstance(array, OnDevice):
            return array if dtype in (None, array.dtype) else array.astype(dtype)
        return OnDevice(np.array(array, dtype, order="C"))

    def ascontiguousarray(self, array, dtype=None):
        array = self.asarray(array, dtype)
        return array if array.array.flags.c_contiguous else OnDevice.compute(lambda: np.ascontiguousarray(array.array))

    def asnumpy(self, array):
        OnDevice.fetches += 1
        return array.array.copy() if isinstance(array, OnDevice) else np.asarray(array)

    def RawModule(self, code, options, name_expressions):
        return SimpleNamespace(get_function=lambda name: Kernel(self, name))

    def _products(
        self, handle, turn_a, turn_b, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c, count
    ):
        """cuBLAS's own, of matrices in Fortran's order at addresses."""
        if OnDevice.recording is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")

        def matrices(address, rows, columns, leading, step):
            memory = np.ctypeslib.as_array(
                ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), ((count - 1) * step + columns * leading,)
            )
            return np.lib.stride_tricks.as_strided(memory, (count, rows, columns), (4 * step, 4, 4 * leading))

        scale, rest = (ctypes.cast(address, ctypes.POINTER(ctypes.c_float))[0] for address in (alpha, beta))
        left = matrices(a, *((k, m) if turn_a else (m, k)), lda, step_a)
        right = matrices(b, *((n, k) if turn_b else (k, n)), ldb, step_b)
        out = matrices(c, m, n, ldc, step_c)
        product = (left.swapaxes(1, 2) if turn_a else left) @ (right.swapaxes(1, 2) if turn_b else right)
        out[...] = scale * product + (rest * out if rest else 0)


class Kernel:
    def __init__(self, cupy, name):
        self.cupy, self.name, self.max_dynamic_shared_size_bytes = cupy, name, 48 << 10

    def __call__(self, grid, threads, arguments, *, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= 99 << 10
        assert len(grid) == len(threads) == 3
        assert max(grid[1:]) < 65536
        assert math.prod(threads) <= 1024
        values = [np.uint64(a.data.ptr) if isinstance(a, OnDevice) else a for a in arguments]
        self.cupy.launched.append(self.name)
        backward = self.cupy.backward

        def launch(memory=arguments):  # whose arrays a graph keeps, as it does its pool on a GPU
            self.cupy.kernels.launch(self.name, grid, threads, values, shared_mem, backward)

        OnDevice.do(launch)


SHIM = Path(__file__).with_name("cuda_on_host.h")
OPTIONS = ["-std=c++17", "-O2", "-fno-strict-aliasing", "-w"]


class HostKernels:
    """kernels.cu for the host, with all instances named."""

    def __init__(self, source, names, folder, compiler):
        self.numbers = {name: number for number, name in enumerate(names)}
        entries = ", ".join(f'entry<{name}>("{name}")' for name in names)
        code, library = folder / "kernels.cpp", folder / "kernels.so"
        code.write_text(f'#include "{SHIM}"\n{source}\nconst Entry entries[] = {{{entries}}};\n', encoding="utf-8")
        command = [compiler, *OPTIONS, "-shared", "-fPIC", "-o", library, code]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        self.library = ctypes.CDLL(str(library))

    def launch(self, name, grid, threads, values, shared, backward=False):
        number = self.numbers[name]
        sizes = (ctypes.c_int * 32)()
        self.library.kernel_sizes(number, sizes)
        assert [value.itemsize for value in values] == [size for size in sizes if size], name
        pointers = (ctypes.c_void_p * len(values))()
        keep = [np.array(value) for value in values]
        for k, value in enumerate(keep):
            pointers[k] = value.ctypes.data
        shape = ctypes.c_int * 3
        failed = self.library.launch(
            number, shape(*grid), shape(*threads), ctypes.c_long(shared), pointers, int(backward)
        )
        assert not failed, f"{name}: its threads wait for each other for ever"


PAIRS = (("Tf32", "Tf32"), ("Half", "Half"), ("Bfloat", "Bfloat"), ("Half", "Bfloat"))
# Every instance of a kernel that the engine may ask for.
KERNELS = [
    *(f"conv<{a}, {b}, {rows}, {channels}>" for a, b in PAIRS for rows in (8, 16) for channels in (64, 128)),
    *(f"winograd_{step}<{down}>" for step in ("in", "out") for down in (0, 1)),
    *(f"{kernel}<{up}>" for kernel in ("first", "pool") for up in ("Single", "Tf32", "Half")),
    *(f"{kernel}<{down}>" for kernel in ("first_backward", "encode", "pull", "join")
      for down in ("Single", "Tf32", "Bfloat")),
    *(f"{kernel}<{form}>" for kernel in ("scale", "channel_sums") for form in ("Single", "Tf32", "Half")),
    "pool_backward<Single, Single>", "pool_backward<Tf32, Tf32>", "pool_backward<Bfloat, Half>",
    *("content<Single, Single>", "content<Tf32, Tf32>", "content<Half, Bfloat>", "gram<Tf32>", "gram<Half>"),
    *(f"{kernel}<{number}>" for kernel in ("products", "combine", "squares") for number in ("float", "double")),
    *("gram_sum", "add_up", "add_partials"),
]  # fmt: skip
