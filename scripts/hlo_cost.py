"""Kernels, bytes and arithmetic of a program that XLA compiled for a GPU, read from its text.

XLA's own `cost_analysis` has no figures for programs whose convolutions are calls of cuDNN.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BITS = {"pred": 8, "bf16": 16}  # others end in their width
_INSTRUCTION = re.compile(
    r"\s+(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)"
)
_FREE = {"get-tuple-element", "bitcast", "parameter", "constant", "tuple", "while", "call"}
# They read as much of their first operand as they return.
_SLICES = {"slice", "dynamic-slice", "gather"}
# What follows them takes from their operand what it takes from them.
_SAME = {"bitcast", "convert", "reshape", "copy"}


@dataclass(frozen=True)
class Instruction:
    """One line of the text: `result` and `rest` as written, `operands` by name."""

    name: str
    result: str
    op: str
    operands: tuple[str, ...]
    rest: str


@dataclass(frozen=True)
class Kernel:
    """What one launch does at most: `moved` bytes read and written, `flops` of products.

    `origin` is the `op_name` that JAX gave to (one of) its operations, "" where it has none.
    """

    name: str
    origin: str
    moved: int
    flops: int


def kernels(text: str) -> list[Kernel]:
    """Return the launches of an optimised program, in order.

    `text` is that of `jax.stages.Compiled.as_text()`. Loops are left out. Bytes are those of every
    result and every operand; of an operand that a fusion only slices, what it takes. They are an
    upper bound of the memory traffic: a cache may hold what a kernel wrote for the next one.
    """
    computations = _parse(text)
    entry = computations["ENTRY"]
    results = {instruction.name: instruction.result for instruction in entry}
    found = []
    for instruction in entry:
        if instruction.op in _FREE:
            continue
        origin = re.search(r'op_name="([^"]*)"', instruction.rest)
        found.append(
            Kernel(
                instruction.name,
                origin[1] if origin else "",
                _moved(instruction, results, computations),
                _flops(instruction, results, computations),
            )
        )
    return found


def _parse(text: str) -> dict[str, list[Instruction]]:
    """Instructions of each computation by its name; the program's own are under "ENTRY"."""
    computations: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = "ENTRY" if line.startswith("ENTRY") else line.split()[0].lstrip("%")
            body = computations.setdefault(name, [])
        elif match := _INSTRUCTION.match(line):
            name, result, op, rest = match.groups()
            given = rest.split("), ")[0]
            operands = tuple(re.findall(r"%([\w.\-]+)", given))
            body.append(Instruction(name, result, op, operands, rest))
    return computations


def _dims(shape: str) -> list[int]:
    """Dimensions of the first array in `shape`."""
    match = re.search(r"\b\w+\[([\d,]*)\]", shape)
    return [int(d) for d in match[1].split(",") if d] if match else []


def _elements(shape: str) -> int:
    """Elements of the first array in `shape`."""
    return math.prod(_dims(shape))


def _size(shape: str) -> int:
    """Bytes of all arrays in `shape`."""
    total = 0
    for kind, dims in re.findall(r"\b(\w+)\[([\d,]*)\]", shape):
        width = re.search(r"\d+", kind)
        bits = _BITS.get(kind, int(width[0]) if width else 0)
        total += bits * math.prod(int(d) for d in dims.split(",") if d) // 8
    return total


def _moved(
    kernel: Instruction, results: dict[str, str], computations: dict[str, list[Instruction]]
) -> int:
    sizes = [_size(results.get(name, "")) for name in kernel.operands]
    written = _size(kernel.result)
    called = re.search(r"calls=%([\w.\-]+)", kernel.rest) if kernel.op == "fusion" else None
    if called is None:
        if kernel.op in _SLICES:
            return 2 * written + sum(sizes[1:])
        if kernel.op == "dynamic-update-slice":
            return 2 * sizes[1]
        return written + sum(sizes)
    body = computations[called[1]]
    inside = {instruction.name: instruction for instruction in body}
    for instruction in body:
        if instruction.op == "parameter":
            number = int(instruction.rest.split(")")[0])
            whole = max(_elements(instruction.result), 1)
            read = min(sum(_read(instruction.name, body)), whole)
            sizes[number] = sizes[number] * read // whole
    root = body[-1]
    if root.op == "dynamic-update-slice":  # in place
        written = _size(inside[root.operands[1]].result)
    return written + sum(sizes)


def _read(name: str, body: list[Instruction]) -> Iterator[int]:
    """Elements that each user of array `name` in a fusion takes from it."""
    whole = next(_elements(found.result) for found in body if found.name == name)
    for user in body:
        if name not in user.operands:
            continue
        last = user is body[-1]
        if user.op in _SAME and not last:
            yield from _read(user.name, body)
        elif user.op in _SLICES and user.operands[0] == name:
            yield _elements(user.result)
        elif user.op == "dynamic-update-slice" and user.operands[0] == name and last:
            yield 0
        else:
            yield whole


def _flops(
    kernel: Instruction, results: dict[str, str], computations: dict[str, list[Instruction]]
) -> int:
    """Two for each multiplication of the kernel's convolutions and matrix products."""
    total = 0
    if kernel.op == "custom-call" and "cudnn$conv" in kernel.rest:
        labels = re.search(r"dim_labels=\w+_(\w+)->", kernel.rest)
        assert labels is not None
        given = [_dims(results[name]) for name in kernel.operands[:2]]
        if "convBackwardFilter" in kernel.rest:
            outputs, weight = given[1], _dims(kernel.result)
        elif "convBackwardInput" in kernel.rest:
            outputs, weight = given
        else:
            outputs, weight = _dims(kernel.result), given[1]
        total += 2 * math.prod(outputs) * math.prod(weight) // weight[labels[1].index("o")]
    if kernel.op == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", kernel.rest)
        assert contracted is not None
        left = _dims(results[kernel.operands[0]])
        depth = math.prod(left[int(d)] for d in contracted[1].split(","))
        total += 2 * math.prod(_dims(kernel.result)) * depth
    for called in re.findall(r"calls=%([\w.\-]+)", kernel.rest):
        body = computations[called]
        within = {instruction.name: instruction.result for instruction in body}
        total += sum(_flops(instruction, within, computations) for instruction in body)
    return total
