"""Read a pickle without importing, calling or changing anything that it names.

`pickletools` splits the file into operations. Each of them only moves values: a global becomes a
`Global` with its name, a call a `Record` with its arguments, a persistent id a `StorageRef`.
Tensors are made afterwards from these, in `tensors.py`.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 256_000_000
MAX_OPERATIONS = 1_000_000
"""Bounds of one pickle. Training checkpoints of the largest models have a tenth of either."""

KEYS = (str, int, float, bytes, type(None))
"""Types of keys whose hash takes no longer than they are long; a tuple's can take forever."""


class Unreadable(Exception):
    """A file is damaged or not supported; the message is the rest of a sentence about it.

    Args:
        hint: What the user can do; empty for the usual advice.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Global:
    """A class or function that a pickle names, as `torch.nn.modules.conv.Conv2d`."""

    name: str


@dataclass(kw_only=True, eq=False, slots=True)
class Record:
    """An object that a pickle makes with a class or function.

    Attributes:
        kind: Name of the class or function; empty if it is another record.
        args: Arguments of the call.
        state: What the pickle gives it as its state, usually its attributes.
        entries: Values that are set by key, as in an ordered dictionary; None if there are none.
        members: Values that are appended or added, as in a list; None if there are none.
    """

    kind: str
    args: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] | None = None
    members: list[Any] | None = None

    def attribute(self, name: str) -> Any:  # noqa: ANN401 - any content
        """Return an attribute; None if it is not set. A state may be a pair, with slots second."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:
            state = state[0]
        return state.get(name) if isinstance(state, dict) else None


@dataclass(frozen=True, kw_only=True)
class StorageRef:
    """A storage that a pickle refers to.

    Attributes:
        kind: Name of its type, as `HalfStorage`.
        key: Name of its data in the file.
    """

    kind: str
    key: str


CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}
"""Operations whose argument is a value."""
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


class _Bounded:
    """The rest of a file for `pickletools`, of which no more is read than there is."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        here = file.tell()
        self._file = file
        self._left = min(file.seek(0, 2) - here, limit)
        file.seek(here)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise Unreadable("its pickle is damaged")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line

    def tell(self) -> int:
        return self._file.tell()


def read(file: BinaryIO, limit: int = MAX_BYTES) -> Any:  # noqa: ANN401 - any content
    """Read one pickle from the current position; the file is left behind it.

    Args:
        file: A file with random access.
        limit: Maximum number of bytes.

    Returns:
        Python's own values, lists, tuples and dictionaries, and `Global`, `Record`, `StorageRef`.

    Raises:
        Unreadable: The pickle is damaged, too long, or refers to other objects than storages.
    """
    machine = _Machine()
    try:
        for number, (operation, argument, _) in enumerate(
            pickletools.genops(_Bounded(file, limit))  # type: ignore[arg-type]  # has all it needs
        ):
            if number > MAX_OPERATIONS:
                raise Unreadable("its pickle is too long")
            machine.run(operation.name, argument)
        return machine.result()
    except Unreadable:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise Unreadable("its pickle is damaged") from error


class _Machine:
    """The stack and memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._globals: dict[str, Global] = {}

    def result(self) -> Any:  # noqa: ANN401 - any content
        return self._stack[-1]

    def run(self, name: str, argument: Any) -> None:  # noqa: ANN401 - any value
        """Run one operation. Raises exceptions of many types if the pickle is damaged."""
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(MARK)
        elif name in TUPLES:
            count = TUPLES[name]
            values = [stack.pop() for _ in range(count)]
            stack.append(tuple(reversed(values)))
        elif name in ("TUPLE", "LIST", "FROZENSET", "DICT"):
            self._collect(name, self._marked())
        elif name in ("APPEND", "SETITEM"):
            values = [stack.pop() for _ in range(1 if name == "APPEND" else 2)]
            self._add(values[::-1], pairs=name == "SETITEM")
        elif name in ("APPENDS", "ADDITEMS", "SETITEMS"):
            self._add(self._marked(), pairs=name == "SETITEMS")
        elif name in ("POP", "POP_MARK"):
            self._marked() if name == "POP_MARK" else stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._object(name, argument)

    def _object(self, name: str, argument: Any) -> None:  # noqa: ANN401 - any value
        """Run an operation that names, makes or fills an object."""
        stack = self._stack
        if name == "GLOBAL":
            stack.append(self._global(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            own, module = stack.pop(), stack.pop()
            if not isinstance(own, str) or not isinstance(module, str):
                raise Unreadable("its pickle is damaged")
            stack.append(self._global(f"{module}.{own}"))
        elif name in ("REDUCE", "NEWOBJ"):
            args, of = stack.pop(), stack.pop()
            stack.append(_called(of, args))
        elif name == "NEWOBJ_EX":
            _, args, of = stack.pop(), stack.pop(), stack.pop()
            stack.append(_called(of, args))
        elif name == "INST":
            of = self._global(argument.replace(" ", ".", 1))
            stack.append(_called(of, tuple(self._marked())))
        elif name == "OBJ":
            of, *args = self._marked()
            stack.append(_called(of, tuple(args)))
        elif name == "EMPTY_SET":
            stack.append(Record(kind="builtins.set"))
        elif name == "BUILD":
            state, of = stack.pop(), stack[-1]
            # The state of a class or function, which an attack can set, changes nothing here.
            if isinstance(of, Record):
                of.state = state
        elif name == "BINPERSID":
            stack.append(_persistent(stack.pop()))
        else:
            raise Unreadable("its pickle refers to objects outside the file")

    def _marked(self) -> list[Any]:
        """Take the values above the last mark off the stack, and the mark."""
        values: list[Any] = []
        while (value := self._stack.pop()) is not MARK:
            values.append(value)
        values.reverse()
        return values

    def _collect(self, name: str, values: list[Any]) -> None:
        if name == "FROZENSET":
            self._stack.append(Record(kind="builtins.frozenset", members=values))
            return
        self._stack.append({} if name == "DICT" else tuple(values) if name == "TUPLE" else [])
        if name != "TUPLE":
            self._add(values, pairs=name == "DICT")

    def _add(self, values: list[Any], *, pairs: bool) -> None:
        """Add values, or pairs of key and value, to the container on top of the stack."""
        into = self._stack[-1]
        if isinstance(into, Record):
            into.entries, into.members = into.entries or {}, into.members or []
        if not pairs:
            (into if isinstance(into, list) else into.members).extend(values)
            return
        entries = into if isinstance(into, dict) else into.entries
        for key, value in zip(values[::2], values[1::2], strict=True):
            # No state dict has other keys.
            if isinstance(key, KEYS):
                entries[key] = value

    def _global(self, name: str) -> Global:
        return self._globals.setdefault(name, Global(name=name))


def _called(of: object, args: Any) -> Record:  # noqa: ANN401 - any value
    if not isinstance(args, tuple):
        raise Unreadable("its pickle is damaged")
    return Record(kind=of.name if isinstance(of, Global) else "", args=args)


def _persistent(pid: object) -> StorageRef | Global:
    """Return what a persistent id refers to: a storage, or a class with its source text.

    The older format saves a module's class in this way. The text is not used.
    """
    if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global:
        return pid[1]
    if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
        raise Unreadable("its pickle refers to something that is not a storage")
    kind, key, view = pid[1], pid[2], pid[5:]
    if not isinstance(kind, Global) or not isinstance(key, (str, int)):
        raise Unreadable("its pickle has a storage without a type or a name")
    if view not in ((), (None,)):
        raise Unreadable("it has storages that are views of others, as before PyTorch 0.4")
    return StorageRef(kind=kind.name.rpartition(".")[2], key=str(key))


def parts(content: object) -> Iterator[object]:
    """Yield every value of a content, each object once however often it is referred to."""
    seen: set[int] = set()
    stack = [content]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, (list, tuple)):
            stack += value
        elif isinstance(value, Record):
            stack += (*value.args, value.state, value.entries, value.members)
