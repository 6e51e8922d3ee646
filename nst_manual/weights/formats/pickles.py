"""A closed interpreter for the pickles of PyTorch's state dictionaries.

A pickle is a program. This interpreter knows the opcodes that build dictionaries, tuples, numbers and strings, and has
stand-ins for the few global names that a state dictionary needs; it imports nothing and calls nothing.
`pickletools` splits the opcodes and checks every length against the bytes that are there.
"""

import io
import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ...pictures.files import without_warnings
from ..bounded_file import WeightsFile

MOST_BYTES = 4 << 20  # VGG-19's state dictionary has about 10 kB
MOST_LETTERS = 1000  # of a name


class Storage(NamedTuple):
    """An array of numbers outside the pickle. `view` is its first number within the storage named by `key`."""

    key: str
    dtype: str
    length: int
    view: int = 0
    root_length: int = 0


class Strided(NamedTuple):
    """A tensor: which numbers of a storage it uses, and in what order."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pickled(NamedTuple):
    """What a pickle describes, where it ends in the given bytes, and its storages by key."""

    value: Any
    end: int
    storages: dict[str, Storage]


class _Global(NamedTuple):
    name: str


_MARK = object()
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    # Counters such as num_batches_tracked are never read, but skipped in the legacy container.
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
_GLOBALS: Mapping[str, Collection[str]] = {
    "collections": ("OrderedDict",),
    "torch._utils": ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"),
    "torch": _STORAGES,
    "torch.storage": _STORAGES,
}
_PUSHED = (
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE",
    "SHORT_BINSTRING", "BINSTRING", "STRING",  # names in files written by Python 2
)  # fmt: skip
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "MARK": lambda: _MARK,
}  # fmt: skip


def read_pickle(file: WeightsFile, data: bytes, start: int = 0) -> Pickled:
    """The object whose pickle begins at data[start]."""
    interpreter = _Interpreter(file)
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        with without_warnings():  # about a backslash in a name, which pickletools takes for an escape
            for opcode, argument, _ in pickletools.genops(stream):
                file.step()
                interpreter.step(opcode.name, argument)
        (value,) = interpreter.stack  # ValueError unless it is one object
        if value is _MARK:
            raise ValueError("expected an object")
        return Pickled(value, stream.tell(), interpreter.storages)
    except (ValueError, IndexError, KeyError) as error:  # from pickletools, an empty stack, an unset memo
        raise file.damaged("its pickle cannot be read") from error


class _Interpreter:
    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.memo: dict[int, Any] = {}  # a dictionary, in which a huge index takes no memory

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name == "LIST":
            stack.append(self._pop_to_mark())
        elif name == "DICT":
            items = self._pop_to_mark()
            stack.append({})
            self._set_items(items)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self._top()
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(self._pop(2) if name == "SETITEM" else self._pop_to_mark())
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
            self._expect(list).extend(items)
        elif name == "GLOBAL":
            stack.append(self._global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(self._global(*self._pop(2)))
        elif name == "BINPERSID":
            stack.append(self._storage(*self._pop(1)))
        elif name == "REDUCE":
            stack.append(self._reduce(*self._pop(2)))
        elif name == "BUILD":  # a state dictionary's _metadata, which is not needed
            self._pop(1)
            self._expect(dict)
        else:
            raise self.file.refused(f"its pickle uses {name}, which no state dictionary needs, so it is refused")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("nothing on the stack")
        return self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) != count or any(item is _MARK for item in items):
            raise ValueError("too little on the stack")
        del self.stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _expect(self, kind: type) -> Any:
        if not isinstance(self._top(), kind):
            raise ValueError(f"expected a {kind.__name__}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._expect(dict)
        if len(items) % 2 or not all(isinstance(key, str | int) for key in items[::2]):
            raise ValueError("expected names as keys")
        if any(isinstance(key, str) and len(key) > MOST_LETTERS for key in items[::2]):
            raise self.file.refused(f"its pickle has a name of more than {MOST_LETTERS} letters, so it is refused")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _global(self, module: Any, name: Any) -> _Global:
        if not (isinstance(module, str) and isinstance(name, str)):  # the text of nested tuples can be endless
            raise ValueError("expected names")
        if name not in _GLOBALS.get(module, ()):
            raise self.file.refused(
                f"its pickle refers to {module[:60]}.{name[:60]}, which no state dictionary needs; nothing was run: "
                f"save the network's state_dict() alone"
            )
        return _Global(name)

    def _storage(self, identity: Any) -> Storage:
        """('storage', type, key, location, count[, (view's key, offset, count)])"""
        match identity:
            case ("storage", _Global(name=kind), str() | int() as key, _, int() as count, *view) if kind in _STORAGES:
                pass
            case _:
                raise ValueError("expected a storage")
        if isinstance(key, bool) or isinstance(count, bool) or count < 0:
            raise ValueError("expected a count")
        whole = Storage(str(key), _STORAGES[kind], count, 0, count)
        if self.storages.setdefault(whole.key, whole) != whole:
            raise ValueError("one storage with two types or lengths")
        match view:
            case [] | [None]:
                return whole
            case [(_, int() as offset, int() as length)] if 0 <= offset <= count and 0 <= length <= count - offset:
                return whole._replace(view=offset, length=length)
        raise ValueError("a view outside its storage")

    def _reduce(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case _Global(name="OrderedDict"), ():
                return {}
            case _Global(name="OrderedDict"), (list() as pairs,):
                self.file.step(len(pairs))
                if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    raise ValueError("expected pairs")
                self.stack.append({})
                self._set_items([item for pair in pairs for item in pair])
                return self.stack.pop()
            case _Global(name="_rebuild_tensor" | "_rebuild_tensor_v2"), (Storage() as held, first, shape, strides, *_):
                whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 8
                if whole and all(type(n) is int and n >= 0 for n in (first, *shape, *strides)):
                    return Strided(held, first, shape, strides)
                raise self.file.refused(
                    "its pickle describes a tensor of a negative or impossible size: the file is damaged"
                )
            case _Global(name="_rebuild_parameter" | "_rebuild_parameter_with_state"), (Strided() as tensor, *_):
                return tensor
        raise ValueError("a call that no state dictionary needs")


def tensors_in(file: WeightsFile, value: Any) -> dict[str, Strided]:
    """Every tensor of a state dictionary, also of one inside a checkpoint such as {"state_dict": {…}, "epoch": 3}.

    Dictionaries may be nested twice. One that occurs under several names is looked into once.
    """
    found: dict[str, Strided] = {}
    seen: set[int] = set()

    def look(value: Any, prefix: str, depth: int) -> None:
        if isinstance(value, dict) and depth and id(value) not in seen:
            seen.add(id(value))
            for key, item in value.items():
                if isinstance(item, Strided):
                    found[name := f"{prefix}{key}"] = item
                    file.step(1 + len(name) // 16)  # letters take memory in every tensor's name
                else:
                    look(item, f"{prefix}{key}.", depth - 1)

    look(value, "", 3)
    return found
