"""A closed interpreter for the pickles of PyTorch's state dictionaries.

A pickle is a program. This one knows the opcodes that build dictionaries, tuples, numbers and strings, and the few
global names that a state dictionary needs, which it answers with stand-ins; nothing is imported and nothing is called.
Opcodes are taken apart by `pickletools`, which checks every length against the bytes that are there.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...pictures.files import without_warnings
from ..bounded_file import WeightsFile

MOST_BYTES = 4 << 20  # a state dictionary of VGG-19 takes about 10 kB
MOST_OPCODES = 100_000  # and 2,000 opcodes


class Storage(NamedTuple):
    """A stretch of numbers outside the pickle. `view` is its first number within the storage named by `key`."""

    key: str
    dtype: str
    length: int
    view: int = 0
    root_length: int = 0


class Strided(NamedTuple):
    """A tensor: which numbers of a storage it shows, and in what order."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pickled(NamedTuple):
    """What a pickle describes, where it ends in the bytes that were given, and the storages it speaks of, by key."""

    value: Any
    end: int
    storages: dict[str, Storage]


class _Global(NamedTuple):
    module: str
    name: str


_MARK = object()
_STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in (("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16"))
}
_STORAGES |= {  # of counters such as num_batches_tracked: never read, but the legacy container has to pass over them
    f"{kind}Storage": dtype
    for kind, dtype in (("Long", "int64"), ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8"),
                        ("Bool", "bool"), ("ComplexFloat", "complex64"), ("ComplexDouble", "complex128"))
}  # fmt: skip
_PUSHED = frozenset(
    (
        "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT",
        "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE",
        "SHORT_BINSTRING", "BINSTRING", "STRING",  # names in files written by Python 2
    )
)  # fmt: skip
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "MARK": lambda: _MARK,
}  # fmt: skip
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(file: WeightsFile, data: bytes, start: int = 0) -> Pickled:
    """The object whose pickle begins at data[start]."""
    interpreter = _Interpreter(file)
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        with without_warnings():  # of a backslash in a name, which pickletools takes for an escape
            for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if number > MOST_OPCODES:
                    raise file.refused(f"its pickle has more than {MOST_OPCODES} steps: it is no state dictionary")
                interpreter.step(opcode.name, argument)
        return Pickled(interpreter.result(), stream.tell(), interpreter.storages)
    except (ValueError, IndexError, KeyError) as error:  # from pickletools, an empty stack, an unset memo
        raise file.damaged("its pickle cannot be read") from error


class _Interpreter:
    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.memo: dict[int, Any] = {}  # a dictionary: a hostile index takes no memory

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise ValueError("a pickle leaves one object")
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in _FIXED_TUPLES:
            stack.append(tuple(self._pop(_FIXED_TUPLES[name])))
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
        elif name == "BUILD":  # a state dictionary's _metadata, which says nothing that is needed
            self._pop(1)
            self._expect(dict)
        else:
            raise self.file.refused(f"its pickle uses {name}, which no state dictionary needs: refused unread")

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
            raise ValueError("a state dictionary's keys are names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _global(self, module: Any, name: Any) -> _Global:
        known = (
            (module == "collections" and name == "OrderedDict")
            or (module == "torch._utils" and name in _REBUILT)
            or (module in ("torch", "torch.storage") and name in _STORAGES)
        )
        if not known:
            raise self.file.refused(
                f"its pickle names {str(module)[:60]}.{str(name)[:60]}, which no state dictionary needs; nothing of it "
                f"was run: save the network's state_dict() alone"
            )
        return _Global(module, name)

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
            raise ValueError("a storage has one type and one length")
        match view:
            case [] | [None]:
                return whole
            case [(_, int() as offset, int() as length)] if 0 <= offset <= count and 0 <= length <= count - offset:
                return whole._replace(view=offset, length=length)
        raise ValueError("a view must lie in its storage")

    def _reduce(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case _Global(name="OrderedDict"), ():
                return {}
            case _Global(name="OrderedDict"), (list() as pairs,):
                self.stack.append({})
                self._set_items([item for pair in pairs for item in _pair(pair)])
                return self.stack.pop()
            case _Global(name="_rebuild_tensor" | "_rebuild_tensor_v2"), (Storage() as held, first, shape, strides, *_):
                whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 8
                if whole and all(type(n) is int and n >= 0 for n in (first, *shape, *strides)):
                    return Strided(held, first, shape, strides)
                raise self.file.refused("its pickle describes a tensor with a negative or senseless size: damaged")
            case _Global(name="_rebuild_parameter" | "_rebuild_parameter_with_state"), (Strided() as tensor, *_):
                return tensor
        raise ValueError("a call that no state dictionary makes")


_REBUILT = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")


def _pair(pair: Any) -> tuple[Any, Any]:
    if not (isinstance(pair, list | tuple) and len(pair) == 2):
        raise ValueError("a dictionary is made of pairs")
    return pair[0], pair[1]


def tensors_in(value: Any, prefix: str = "", depth: int = 3) -> dict[str, Strided]:
    """Every tensor of a state dictionary, also of one inside a checkpoint: {"state_dict": {…}, "epoch": 3}."""
    found: dict[str, Strided] = {}
    if isinstance(value, dict) and depth:
        for key, item in value.items():
            if isinstance(item, Strided):
                found[f"{prefix}{key}"] = item
            else:
                found |= tensors_in(item, f"{prefix}{key}.", depth - 1)
    return found
