"""The inert pickle machine.

A .pth file is a pickle, and a pickle is a program. None is ever given to `pickle`: `InertPickle` walks the opcodes with
`pickletools.genops`, a parser that calls nothing, and builds inert values (inert.py). A global that rebuild.py does not
know ends the reading, and so does an opcode that is not below.
"""

import contextlib
import io
import itertools
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from bitvit.checkpoint.dtypes import STORAGE_CODES
from bitvit.checkpoint.inert import Global, Instance, Opaque, Storage, described, weight
from bitvit.checkpoint.rebuild import CALLS, is_class, is_known, make_dict, make_set, modern
from bitvit.checkpoint.remedies import FETCH_AGAIN, RESAVE
from bitvit.errors import CheckpointError

__all__ = ["CONSTANTS", "EMPTIES", "LITERALS", "MAX_PICKLE", "MAX_WORK", "InertPickle"]

MAX_PICKLE = 16 << 20  # bytes; BHViT-small with optimizer state and EMA has a pickle of about 1 MB
MAX_WORK = (
    600_000  # opcodes and copied elements of a file; that one has about 3e5. Bounds time to 2 s, memory to 150 MB
)
_MAX_INT_BITS = 1024  # the largest legitimate one is the 77-bit magic number of the legacy format

_MODULES = "torch.nn.modules."

# Opcodes that push the value pickletools has parsed for them.
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTIES: dict[str, Callable[[], object]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


class InertPickle:
    """Interpreter of a file's pickles that builds inert values only: containers, scalars and stand-ins.

    Linear in the pickles' length, without recursion. Anything outside the allow-lists is a CheckpointError.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream
        self.position = 0
        self.work = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}  # by key, of all the pickles
        self.has_module = False  # whether an nn.Module has been met

    def run(self) -> object:
        """The next pickle's object; the stream then stands behind the pickle."""
        self.stack, self.marks, self.memo = [], [], {}
        # ValueError: arguments that pickletools cannot parse, values that fit no opcode. IndexError: an empty stack.
        # TypeError: a function of CALLS with the wrong arguments. Warning: an odd escape in a STRING's argument,
        # where warnings are errors.
        try:
            for opcode, argument, position in pickletools.genops(self.stream):
                self.position = position or 0
                self.charge(1)
                self.step(opcode.name, argument)
            (value,) = self.stack
        except (ValueError, IndexError, TypeError, Warning) as problem:
            raise CheckpointError(
                f"malformed or truncated pickle at byte {self.position}: {problem}; {FETCH_AGAIN}"
            ) from None
        return value

    def step(self, name: str, argument: Any) -> None:
        """Obey one opcode."""
        if name in LITERALS:
            self.push_literal(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTIES:
            self.stack.append(EMPTIES[name]())
        else:
            self.step_stack(name, argument)

    def step_stack(self, name: str, argument: Any) -> None:
        """Opcodes of the memo, the marks and the containers."""
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.get(argument)
            case "MARK":
                self.marks.append(len(self.stack))
            case "POP":
                self.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "TUPLE":
                self.stack.append(tuple(self.pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop_many(int(name[-1]))))
            case "FROZENSET":
                self.stack.append(make_set(self.pop_to_mark()))
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items(self.pop_many(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "ADDITEMS":
                self.add_items(self.pop_to_mark())
            case _:
                self.step_call(name, argument)

    def step_call(self, name: str, argument: Any) -> None:
        """Opcodes that would call something in a true pickle machine."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "GLOBAL":
                self.push_global(argument)
            case "STACK_GLOBAL":
                self.push_global(" ".join(self.pop_many(2)))
            case "REDUCE" | "NEWOBJ":
                self.call(*self.pop_many(2))
            case "NEWOBJ_EX":
                self.call(*self.pop_many(3))
            case "BUILD":
                self.build(self.pop())
            case "BINPERSID":
                self.push_storage(self.pop())
            case _:
                self.refuse(f"the opcode {name} ({described(argument)})")

    def charge(self, work: int) -> None:
        """Count opcodes and copied elements: a container used again and again must not be copied without bound."""
        self.work += work
        if self.work > MAX_WORK:
            raise CheckpointError(f"the pickle takes more than {MAX_WORK} steps to read; {RESAVE}")

    def refuse(self, what: str) -> NoReturn:
        """End the reading: the pickle wants something that is not on the allow-lists."""
        arguments = (what, *self.remaining_arguments())
        if self.has_module or any(isinstance(text, str) and _MODULES in text for text in arguments):
            kind = "it holds a whole pickled nn.Module, not only a state dict"
        elif "torch._utils." in what:
            kind = "it holds a kind of tensor that no BHViT has"
        else:
            kind = "it holds more than plain values"
        raise CheckpointError(
            f"the pickle asks for {what} at byte {self.position}: {kind}; "
            f"only tensors, plain values and objects of plain classes are read, and nothing was executed; {RESAVE}"
        )

    def remaining_arguments(self) -> Iterator[object]:
        """Arguments of the opcodes not yet looked at, as far as they can be parsed."""
        with contextlib.suppress(ValueError, Warning):
            for _, argument, _ in itertools.islice(pickletools.genops(self.stream), MAX_WORK - self.work):
                yield argument

    # -- stack, memo, containers

    def pop(self) -> Any:
        if self.marks and self.marks[-1] == len(self.stack):
            raise ValueError("an opcode takes more than there is behind the last mark")
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def get(self, slot: int) -> None:
        if slot not in self.memo:
            raise ValueError(f"memo slot {slot} is empty")
        self.stack.append(self.memo[slot])

    def push_literal(self, value: object) -> None:
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise ValueError(f"an integer of {value.bit_length()} bits")
        self.stack.append(value)

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Instance):
            return  # items of a list's subclass have no names
        if not isinstance(target, list):
            raise ValueError(f"items appended to {described(target)}, which is not a list")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        fields = target.fields if isinstance(target, Instance) else target
        if not isinstance(fields, dict) or len(items) % 2:
            raise ValueError(f"{len(items)} keys and values put into {described(target)}")
        fields.update(make_dict(list(zip(items[::2], items[1::2], strict=True))))

    def add_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Instance):
            return
        if not isinstance(target, set):
            raise ValueError(f"items added to {described(target)}, which is not a set")
        target.update(make_set(items))

    # -- globals, calls, persistent ids

    def push_global(self, name: str) -> None:
        self.charge(2)  # its text makes it the slowest of opcodes
        name = modern(name)
        if not is_known(name):
            self.refuse(f"the global {described(name.replace(' ', '.'))}")
        self.has_module |= name.startswith(_MODULES)
        self.stack.append(Global(name))

    def call(self, function: object, args: object, options: object = None) -> None:
        """Push what a function of `CALLS` makes of the arguments, or an object of a class."""
        if not isinstance(function, Global) or not (
            is_class(function.name) or (function.name in CALLS and not options)
        ):
            self.refuse(f"a call of {described(function)}")
        if not isinstance(args, tuple):
            raise ValueError(f"{function.name} called with {described(args)} in place of arguments")
        self.charge(len(args) + sum(weight(arg) for arg in args))
        if function.name in CALLS:
            self.stack.append(CALLS[function.name](*args))
        else:
            self.charge(2)
            self.stack.append(Instance(function.name, unnamed=[*args]))

    def build(self, state: object) -> None:
        """Attributes of the object on the stack: kept for an Instance, of no use for an OrderedDict (`_metadata`)."""
        target = self.stack[-1]
        if isinstance(target, Instance):
            for fields in state if isinstance(state, tuple) and len(state) == 2 else (state,):  # dict, and slots
                if isinstance(fields, dict):
                    self.charge(weight(fields))
                    target.fields.update(make_dict(fields))
                elif fields is not None:
                    target.unnamed.append(fields)
        elif not isinstance(target, dict | list | set | Opaque):
            self.refuse(f"setting the attributes of {described(target)}")

    def push_storage(self, persistent_id: object) -> None:
        """('storage', class, key, location, count) and, in the legacy format, a view, which must be None; or the class
        of an nn.Module."""
        match persistent_id:
            case ("storage", Global(name=name), str(key), _, int(count), *view) if name in STORAGE_CODES:
                if type(count) is bool or count < 0 or view not in ([], [None]):
                    raise ValueError(f"a storage of {count} elements, or a view of one")
                self.storages[key] = Storage(STORAGE_CODES[name], key, count)
                self.stack.append(self.storages[key])
            case ("module", Global() as cls, *_):  # the legacy format: with its source code, which is text
                self.has_module = True
                self.stack.append(cls)
            case _:
                raise ValueError("a persistent id that describes no storage")
