"""A device that is not the host, made of the host: arrays that NumPy's functions work on as on CuPy's, and as much of
CuPy as the CUDA engine uses, whose kernels the machine's C++ compiler makes for the CPU (cuda_on_host.h)."""

import contextlib
import ctypes
import math
import subprocess
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from nst_manual.engines.cuda.device import specialised


class OnDevice(np.lib.mixins.NDArrayOperatorsMixin):
    """What CuPy's arrays are to NumPy: functions and operators run over there, nothing comes to the host or goes there
    unasked, and `tolist` or `float` fetches. Without a GPU it proves that no vector leaves the device."""

    fetches = 0
    recording = None  # a list, while a graph is recorded
    memory = None  # where new arrays come from
    broken = None  # the error that everything raises since the device failed

    def __init__(self, array, block=None):
        self.array = array
        self.block = block  # the memory, which views share

    def __array__(self, *args, **kwargs):
        raise TypeError("an implicit copy to the host")

    __bool__ = __iter__ = __array__

    def __float__(self):
        return float(self._fetched("item")())

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if ufunc is np.matmul and self.recording is not None:
            raise NotImplementedError("CuPy lets no call of cuBLAS into a graph")
        return self._there(getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return self._there(function, args, kwargs)

    @classmethod
    def _there(cls, function, args, kwargs):
        if "device" in kwargs:  # NumPy adds it to eye(…, like=…), and CuPy does not know it
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument 'device'")

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
        args = [inside(arg, uploads) for arg in args]
        return cls.compute(lambda: function(*args, **kwargs))

    @classmethod
    def compute(cls, action):
        """The array that the action makes; while a graph is recorded, only the graph's launches make it."""
        result = action()
        if isinstance(result, tuple):  # such as eigenvalues and eigenvectors, which no graph can have
            assert cls.recording is None
            return tuple(cls(np.asarray(part)) for part in result)
        result = np.asarray(result)
        block = cls.memory.allocated(result) if cls.memory and result.base is None else None
        if cls.recording is not None:
            cls.recording.append(lambda: np.copyto(result, action()) if result.size else None)
            if result.base is None:
                result.fill(77)
        return cls(result, block)

    @classmethod
    def do(cls, action):
        """An action that changes memory: at once, or when the graph that is recorded is launched."""
        cls.recording.append(action) if cls.recording is not None else action()

    def __getitem__(self, key):
        return OnDevice(self.array[key], self.block)

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise TypeError("an implicit copy to the device")
        value = value.array if isinstance(value, OnDevice) else value
        array = self.array
        self.do(lambda: array.__setitem__(key, value))

    def __len__(self):
        return len(self.array)

    def _fetched(self, name):
        assert OnDevice.recording is None, "a fetch while a graph is recorded"
        OnDevice.fetched()
        return getattr(self.array, name)

    @classmethod
    def fetched(cls):
        cls.fetches += 1
        if cls.broken is not None:
            raise cls.broken

    def get(self):
        return self._fetched("copy")()

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
        assert name in ("reshape", "astype", "copy", "sum", "mean", "swapaxes", "transpose", "view", "T"), name
        if name == "T":
            return OnDevice(attribute, self.block)
        if name in ("reshape", "swapaxes", "transpose", "view"):
            return lambda *args, **kwargs: OnDevice(attribute(*args, **kwargs), self.block)
        return lambda *args, **kwargs: self.compute(lambda: np.asarray(attribute(*args, **kwargs)))


# ---- As much of CuPy as the engine uses


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CUBLASError(RuntimeError):
    pass


class NVRTCError(RuntimeError):
    pass


class CUSOLVERError(RuntimeError):
    pass


class CompileException(Exception):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Block:
    pass


class Memory:
    """Who has which memory. `pool_dies` is what CuPy does then: "frees" up to 14.0, "leaks" from 14.1 on."""

    def __init__(self, pool_dies="leaks"):
        self.pool_dies, self.pools, self.freed, self.leaked = pool_dies, [], [], 0
        self.left = math.inf  # allocations until one fails

    def allocated(self, array):
        self.left -= 1
        if self.left < 0:
            self.left = math.inf  # what the failed evaluation had is free again
            raise OutOfMemoryError(f"Out of memory allocating {array.nbytes:,} bytes")
        return self.pools[-1].allocated(array) if self.pools else None

    def of_the_dead(self, size):
        """Memory that was freed under a graph: another array gets it."""
        for number, array in enumerate(self.freed):
            if array.nbytes >= size > 0 and array.flags.c_contiguous:
                return self.freed.pop(number).reshape(-1).view(np.uint8)[:size]
        return None


class Pool:
    """CuPy's MemoryPool, as far as a graph can tell. What it lacks it gets from `allocator`."""

    def __init__(self, memory, allocator):
        self.memory, self.allocator, self.arrays, self.live, self.total = memory, allocator, [], 0, 0

    def malloc(self, size):
        raise NotImplementedError

    def allocated(self, array):
        size = array.nbytes
        self.live += size
        if self.live > self.total:
            self.allocator(self.live - self.total)
            self.total = self.live
        self.arrays.append(array)
        block, pool = Block(), weakref.ref(self)

        def gone():
            if pool() is not None:
                pool().live -= size

        weakref.finalize(block, gone).atexit = False
        return block

    def free_all_blocks(self):
        if not self.live:
            self.arrays, self.total = [], 0

    def __del__(self):
        if self.memory.pool_dies == "frees":
            self.memory.freed += self.arrays
        else:
            self.memory.leaked += sum(array.nbytes for array in self.arrays)


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


class Cards:
    """`cupy.cuda.Device`: the cards, of which each thread has a current one."""

    def __init__(self, free, attributes):
        self.free, self.attributes, self.of_thread = free, attributes, threading.local()

    @property
    def current(self):
        return getattr(self.of_thread, "current", 0)

    @current.setter
    def current(self, number):
        self.of_thread.current = number

    def __call__(self, number=None):
        return Card(self, self.current if number is None else number)


class Card:
    compute_capability = "90"

    def __init__(self, cards, number):
        self.cards, self.id, self.attributes = cards, number, cards.attributes

    def use(self):
        self.cards.current = self.id

    def synchronize(self):
        pass

    def __enter__(self):
        self.before, self.cards.current = self.cards.current, self.id
        return self

    def __exit__(self, *exception):
        self.cards.current = self.before


class Cupy:
    """The module. `kernels` runs kernels; `allocated` counts arrays, `free` is each card's free memory."""

    __version__ = "stand-in"

    def __init__(self, kernels, runtime=13000, free=(1 << 30,), multiprocessors=3, pool_dies="leaks"):
        self.kernels, self.allocated, self.total = kernels, 0, 8 << 30
        self.backward = False  # the order in which a block's threads run: no result may depend on it
        self.launched = []
        self.sabotage = {}  # kernel → how it goes wrong, one of SABOTAGE
        self.broken_kernels = {}  # kernel → HostKernels that have it in place of the right one
        self.errors = {}  # the launch with that number, counted from 0 → the error that it raises, from then on always
        self.memory = OnDevice.memory = Memory(pool_dies)
        OnDevice.broken = OnDevice.recording = None
        attributes = {
            "MultiProcessorCount": multiprocessors,
            "MaxSharedMemoryPerBlockOptin": 99 << 10,
            "L2CacheSize": 50 << 20,
        }
        self.cards = Cards(free, attributes)
        self.cuda = SimpleNamespace(
            Device=self.cards,
            Stream=Stream,
            Memory=lambda size: size,
            MemoryPointer=lambda memory, offset: memory,
            MemoryPool=lambda allocator: Pool(self.memory, allocator),
            using_allocator=self._using,
            get_current_stream=Stream,
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                is_hip=False,
                runtimeGetVersion=lambda: runtime,
                getDeviceCount=lambda: len(free),
                getDeviceProperties=lambda number: {"name": b"a CPU"},
                driverGetVersion=lambda: 13000,
                memGetInfo=lambda: (self.cards.free[self.cards.current], self.total),
            ),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            nvrtc=SimpleNamespace(NVRTCError=NVRTCError, getVersion=lambda: (13, 0)),
            compiler=SimpleNamespace(CompileException=CompileException),
            cublas=SimpleNamespace(
                CUBLASError=CUBLASError,
                sgemmStridedBatched=self._products,
                setMathMode=lambda handle, mode: setattr(self, "math_mode", mode),
                getVersion=lambda handle: 130000,
            ),
            device=SimpleNamespace(get_cublas_handle=lambda: 1),
        )

    @contextlib.contextmanager
    def _using(self, malloc):
        self.memory.pools.append(malloc.__self__)
        try:
            yield
        finally:
            self.memory.pools.pop()

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: None)

    def empty(self, shape, dtype=float):
        self.allocated += 1
        if OnDevice.broken is not None:
            raise OnDevice.broken
        array = np.empty(shape, dtype)
        used = self.memory.of_the_dead(array.nbytes)
        array = array if used is None else used.view(dtype).reshape(shape)
        array.reshape(-1).view(np.uint8).fill(0xFF)  # NaN
        return OnDevice(array, self.memory.allocated(array))

    def full(self, shape, value, dtype=float):
        array = self.empty(shape, dtype)
        array[...] = value
        return array

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
        inside = array.array
        return array if inside.flags.c_contiguous else OnDevice.compute(lambda: np.ascontiguousarray(inside))

    def asnumpy(self, array):
        if not isinstance(array, OnDevice):
            return np.asarray(array)
        OnDevice.fetched()
        return array.array.copy()

    def RawModule(self, code, options):
        return SimpleNamespace(get_function=lambda name: Kernel(self, self.kernels.name_of(code)))

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
        OnDevice.broken = OnDevice.broken or self.cupy.errors.get(len(self.cupy.launched))
        if OnDevice.broken is not None:
            raise OnDevice.broken
        self.cupy.launched.append(self.name)
        backward = self.cupy.backward

        arrays = [a.array for a in arguments if isinstance(a, OnDevice)]

        def launch(memory=arrays, grid=grid):  # a graph keeps addresses alone, and whoever has their memory keeps that
            kernels = self.cupy.broken_kernels.get(self.name, self.cupy.kernels)
            kernels.launch(self.name, grid, threads, values, shared_mem, backward)

        how = self.cupy.sabotage.get(self.name)
        OnDevice.do((lambda: SABOTAGE[how](launch, arrays, grid)) if how else launch)


def _unwritten(launch, arrays, grid):
    pass


def _without_its_last_blocks(launch, arrays, grid):
    largest = int(np.argmax(grid))
    if grid[largest] > 1:
        launch(grid=tuple(n - (k == largest) for k, n in enumerate(grid)))


def _in_a_wrong_layout(launch, arrays, grid):
    before = [array.copy() for array in arrays]
    launch()
    for array, old in zip(arrays, before, strict=True):
        if array.tobytes() != old.tobytes():
            array[...] = array.reshape(-1)[::-1].reshape(array.shape).copy()


def _past_the_end(launch, arrays, grid):
    launch()
    for array in arrays:
        whole = array if array.base is None else array.base
        end = array.ctypes.data + array.nbytes - whole.ctypes.data
        if end < whole.nbytes:
            whole.reshape(-1).view(np.uint8)[end] ^= 0xFF


SABOTAGE = {
    "unwritten": _unwritten,
    "without its last blocks": _without_its_last_blocks,
    "in a wrong layout": _in_a_wrong_layout,
    "past the end": _past_the_end,
}


SHIM = Path(__file__).with_name("cuda_on_host.h")
OPTIONS = ["-std=c++17", "-O2", "-fno-strict-aliasing", "-w"]


class HostKernels:
    """The engine's kernels for the host, with all instances named."""

    def __init__(self, source, names, folder, compiler):
        self.numbers = {name: number for number, name in enumerate(names)}
        self.names = {specialised(source, name): name for name in names}
        entries = ", ".join(f'entry<{name}>("{name}")' for name in names)
        code, library = folder / "kernels.cpp", folder / "kernels.so"
        code.write_text(f'#include "{SHIM}"\n{source}\nconst Entry entries[] = {{{entries}}};\n', encoding="utf-8")
        command = [compiler, *OPTIONS, "-shared", "-fPIC", "-o", library, code]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        self.library, self.one_at_a_time = ctypes.CDLL(str(library)), threading.Lock()

    def name_of(self, code):
        """Of the kernel that this source makes a plain function."""
        return self.names[code]

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
        with self.one_at_a_time:  # its fibers are the process's, not the thread's
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
    *("gram_sum", "add_up", "add_partials", "cholesky", "solve"),
    *(f"matrix_product<{number}, {turned}>" for number in ("float", "double") for turned in (0, 1)),
]  # fmt: skip
