"""A JAX function as an ONNX graph: its jaxpr, an equation at a time.

The jaxpr has symbolic sizes (jax.export.symbolic_shape), so the graph takes any number of tracklets
and frames. What the models use is here; another primitive is a NotImplementedError that names it.
Where the model has a program of its own for CPUs, the other one is taken: runtimes have
convolutions of their own.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stf_jax.errors import import_extra

OPSET = 20
_IR_VERSION = 10  # of ONNX 1.16, the first with this opset's
_END = 2**62  # of a slice: as far as there is

# Elementwise: a primitive's name -> the operator's.
_ELEMENTWISE = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "logistic": "Sigmoid",
    "lt": "Less",
    "gt": "Greater",
    "eq": "Equal",
}
_SAME = "optimization_barrier", "stop_gradient"


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph, or a constant.

    `shape` is what the tensor has; the jaxpr's variable may be that broadcast, which elementwise
    operators do by themselves.
    """

    name: str
    shape: tuple[Any, ...]
    constant: np.ndarray | None = None


def onnx_model(
    function: Callable[..., Sequence[Any]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
) -> Any:
    """Return the `onnx.ModelProto` of `function` of `inputs`, whose shapes may be symbolic.

    Raises:
        UserError: the package onnx is not installed.
        NotImplementedError: the function uses a primitive that is not translated.
    """
    traced = jax.jit(function).trace(*inputs.values()).jaxpr
    return _Graph(inputs).model(traced, outputs)


class _Graph:
    """The nodes and constants so far."""

    def __init__(self, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        self.onnx = import_extra("onnx", "export")
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs = inputs
        self.kernels: dict[str, _Value] = {}  # transposed; a stage is called more than once
        self.sizes: dict[str, _Value] = {}  # of symbols and what is computed of them

    def model(self, closed: Any, outputs: Sequence[str]) -> Any:
        helper = self.onnx.helper
        given = [_Value(name, tuple(spec.shape)) for name, spec in self.inputs.items()]
        results = self.run(closed.jaxpr, closed.consts, given)
        infos = []
        for value, var, name in zip(results, closed.jaxpr.outvars, outputs, strict=True):
            full = self.full(value, var.aval.shape)
            self.nodes.append(helper.make_node("Identity", [full.name], [name]))
            infos.append(self._info(name, var.aval))
        used, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if used & {*node.output}:
                used |= {*node.input}
                nodes.append(node)
        weights = [
            self.onnx.numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name in used
        ]
        graph = helper.make_graph(
            nodes[::-1],
            "stf_jax",
            [self._info(name, spec) for name, spec in self.inputs.items()],
            infos,
            weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        self.onnx.checker.check_model(model)
        return model

    def _info(self, name: str, spec: Any) -> Any:
        shape = [size if isinstance(size, int) else str(size) for size in spec.shape]
        return self.onnx.helper.make_tensor_value_info(name, self._type(spec.dtype), shape)

    def _type(self, dtype: Any) -> int:
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[_Value]) -> list[_Value]:
        """Translate the equations; returns the values of the jaxpr's results."""
        known: dict[Any, _Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= {v: self.constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> _Value:
            if hasattr(atom, "val"):
                return self.constant(np.asarray(atom.val, atom.aval.dtype))
            return known[atom]

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            known |= zip(eqn.outvars, self.equation(eqn, values), strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        name, params = eqn.primitive.name, eqn.params
        inner = params.get("jaxpr") or params.get("call_jaxpr")
        if inner is not None:  # jit, a function with a gradient of its own
            return self.run(inner.jaxpr, inner.consts, values)
        if name in _SAME:
            return values
        if name == "platform_index":
            others = [i for i, names in enumerate(params["platforms"]) if names is None]
            return [self.constant(np.int32(others[0]))]
        if name == "cond":
            index = values[0].constant
            if index is None:
                raise NotImplementedError("cond of what is computed has no translation to ONNX")
            branch = params["branches"][int(index)]
            return self.run(branch.jaxpr, branch.consts, values[1:])
        known = all(value.constant is not None for value in values)
        if known and name != "dim_as_value" and _is_fixed(eqn):
            found = eqn.primitive.bind(*(jnp.asarray(v.constant) for v in values), **params)
            several = found if eqn.primitive.multiple_results else [found]
            return [self.constant(array) for array in several]
        if name in _ELEMENTWISE:
            return [self.elementwise(name, values, eqn)]
        translate = getattr(self, f"_{name}", None)
        if translate is None:
            raise NotImplementedError(f"the primitive {name} has no translation to ONNX")
        result = translate(eqn, *values)
        return result if isinstance(result, list) else [result]

    # Tensors and sizes.

    def node(self, kind: str, shape: Sequence[Any], *inputs: _Value, **attributes: Any) -> _Value:
        name = f"t{len(self.nodes)}"
        names = [value.name for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [name], **attributes))
        return _Value(name, tuple(shape))

    def constant(self, array: Any) -> _Value:
        array = np.asarray(array)
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return _Value(name, array.shape, array)

    def numbers(self, *values: int | np.integer) -> _Value:
        return self.constant(np.array(values, np.int64))

    def size(self, size: Any) -> _Value:
        """A size, [1] int64: of a symbolic one, such as `32*b*t + 1`, what it is at run time."""
        if isinstance(size, int | np.integer):
            return self.numbers(int(size))
        text = str(size)
        if text not in self.sizes:
            self.sizes[text] = self._computed(ast.parse(text, mode="eval").body)
        return self.sizes[text]

    def _computed(self, tree: ast.expr) -> _Value:
        kinds = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
        if isinstance(tree, ast.Constant):
            return self.numbers(int(tree.value))  # pyright: ignore[reportArgumentType]
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return self.node("Neg", (1,), self._computed(tree.operand))
        if isinstance(tree, ast.BinOp) and type(tree.op) in kinds:
            sides = self._computed(tree.left), self._computed(tree.right)
            return self.node(kinds[type(tree.op)], (1,), *sides)
        if isinstance(tree, ast.Name):
            for name, spec in self.inputs.items():
                for axis, size in enumerate(spec.shape):
                    if str(size) == tree.id:
                        whole = self.node("Shape", (len(spec.shape),), _Value(name, spec.shape))
                        return self.node("Gather", (1,), whole, self.numbers(axis), axis=0)
        raise NotImplementedError(f"a size of {ast.unparse(tree)} has no translation to ONNX")

    def sizes_of(self, shape: Sequence[Any]) -> _Value:
        """A shape, [N] int64."""
        if all(isinstance(size, int | np.integer) for size in shape):
            return self.numbers(*map(int, shape))
        return self.node("Concat", (len(shape),), *map(self.size, shape), axis=0)

    def full(self, value: _Value, shape: Sequence[Any]) -> _Value:
        """`value` broadcast to what the jaxpr says it is."""
        if value.shape == tuple(shape):
            return value
        return self.node("Expand", shape, value, self.sizes_of(shape))

    def reshaped(self, value: _Value, shape: Sequence[Any]) -> _Value:
        if value.shape == tuple(shape):
            return value
        symbolic = [not isinstance(size, int | np.integer) for size in shape]
        if sum(symbolic) == 1:
            known = [-1 if free else int(s) for s, free in zip(shape, symbolic, strict=True)]
            return self.node("Reshape", shape, value, self.numbers(*known))
        return self.node("Reshape", shape, value, self.sizes_of(shape))

    # Primitives.

    def elementwise(self, name: str, values: list[_Value], eqn: Any) -> _Value:
        kept = [v for v in values if not _is_neutral(name, v, values)]
        if len(kept) == 1 and len(values) == 2:
            return kept[0]
        shape = tuple(
            _broadcast(sizes) for sizes in zip(*(v.shape for v in values if v.shape), strict=True)
        )
        bounds = [v for v in values if v.constant is not None and v.constant.ndim == 0]
        is_float = np.issubdtype(eqn.outvars[0].aval.dtype, np.floating)
        if name in ("max", "min") and bounds and is_float:
            (x,) = (value for value in values if value is not bounds[0])
            return self.bounded(name, x, bounds[0])
        return self.node(_ELEMENTWISE[name], shape, *values)

    def bounded(self, name: str, x: _Value, bound: _Value) -> _Value:
        """The maximum or minimum with a number, as the operators that runtimes join to others."""
        if name == "max" and bound.constant == 0:
            return self.node("Relu", x.shape, x)
        last = self.nodes[-1]
        if name == "min" and last.op_type == "Relu" and list(last.output) == [x.name]:
            zero = self.constant(np.zeros_like(bound.constant))
            return self.node("Clip", x.shape, _Value(last.input[0], x.shape), zero, bound)
        return self.node(_ELEMENTWISE[name], x.shape, x, bound)

    def _convert_element_type(self, eqn: Any, x: _Value) -> _Value:
        return self.node("Cast", x.shape, x, to=self._type(eqn.params["new_dtype"]))

    def _select_n(self, eqn: Any, which: _Value, no: _Value, yes: _Value) -> _Value:
        shapes = [v.shape for v in (which, no, yes) if v.shape]
        shape = [_broadcast(sizes) for sizes in zip(*shapes, strict=True)]
        return self.node("Where", shape, which, yes, no)

    def _broadcast_in_dim(self, eqn: Any, x: _Value, *sizes: _Value) -> _Value:
        wide, kept = [1] * len(eqn.params["shape"]), eqn.params["broadcast_dimensions"]
        for axis, size in zip(kept, x.shape, strict=True):
            wide[axis] = size
        return self.reshaped(x, wide)

    def _reshape(self, eqn: Any, x: _Value, *sizes: _Value) -> _Value:
        return self.reshaped(self.full(x, eqn.invars[0].aval.shape), eqn.outvars[0].aval.shape)

    def _squeeze(self, eqn: Any, x: _Value) -> _Value:
        left = [s for axis, s in enumerate(x.shape) if axis not in eqn.params["dimensions"]]
        return self.reshaped(x, left)

    def _transpose(self, eqn: Any, x: _Value) -> _Value:
        order = eqn.params["permutation"]
        return self.node("Transpose", [x.shape[axis] for axis in order], x, perm=order)

    def _concatenate(self, eqn: Any, *parts: _Value) -> _Value:
        whole = [self.full(v, i.aval.shape) for v, i in zip(parts, eqn.invars, strict=True)]
        axis = eqn.params["dimension"]
        return self.node("Concat", eqn.outvars[0].aval.shape, *whole, axis=axis)

    def _stack(self, eqn: Any, *parts: _Value) -> _Value:
        shape, axis = eqn.outvars[0].aval.shape, eqn.params["axis"]
        one = [1 if at == axis else size for at, size in enumerate(shape)]
        whole = [
            self.reshaped(self.full(v, i.aval.shape), one)
            for v, i in zip(parts, eqn.invars, strict=True)
        ]
        return self.node("Concat", shape, *whole, axis=axis) if len(whole) > 1 else whole[0]

    def _iota(self, eqn: Any, *sizes: _Value) -> _Value:
        shape, axis = eqn.outvars[0].aval.shape, eqn.params["dimension"]
        ends = [self.constant(np.int64(0)), self.reshaped(self.size(shape[axis]), ())]
        counted = self.node("Range", (shape[axis],), *ends, self.constant(np.int64(1)))
        counted = self.node("Cast", counted.shape, counted, to=self._type(eqn.params["dtype"]))
        return self.reshaped(counted, [s if at == axis else 1 for at, s in enumerate(shape)])

    def _dim_as_value(self, eqn: Any) -> _Value:
        size = self.reshaped(self.size(eqn.params["dim"]), ())
        return self.node("Cast", (), size, to=self._type(eqn.outvars[0].aval.dtype))

    def _pad(self, eqn: Any, x: _Value, value: _Value) -> _Value:
        low, high, inner = zip(*eqn.params["padding_config"], strict=True)
        if any(inner) or min(*low, *high) < 0:
            raise NotImplementedError("padding between elements has no translation to ONNX")
        x = self.full(x, eqn.invars[0].aval.shape)
        return self.node("Pad", eqn.outvars[0].aval.shape, x, self.numbers(*low, *high), value)

    def sliced(
        self, x: _Value, shape: Sequence[Any], axes: Sequence[int], starts: _Value, ends: _Value
    ) -> _Value:
        return self.node("Slice", shape, x, starts, ends, self.numbers(*axes))

    def _slice(self, eqn: Any, x: _Value) -> _Value:
        start, limit = eqn.params["start_indices"], eqn.params["limit_indices"]
        strides = eqn.params["strides"] or [1] * len(start)
        x = self.full(x, eqn.invars[0].aval.shape)
        axes = [a for a, s in enumerate(x.shape) if (start[a], limit[a], strides[a]) != (0, s, 1)]
        shape = eqn.outvars[0].aval.shape
        ends = self.sizes_of([limit[a] for a in axes])
        starts = self.sizes_of([start[a] for a in axes])
        steps = self.numbers(*(strides[a] for a in axes))
        return self.node("Slice", shape, x, starts, ends, self.numbers(*axes), steps)

    def _rev(self, eqn: Any, x: _Value) -> _Value:
        axes = eqn.params["dimensions"]
        x = self.full(x, eqn.invars[0].aval.shape)
        back = [self.numbers(*[end] * len(axes)) for end in (-1, -_END)]
        steps = self.numbers(*[-1] * len(axes))
        return self.node("Slice", x.shape, x, *back, self.numbers(*axes), steps)

    def _dynamic_slice(self, eqn: Any, x: _Value, *starts: _Value) -> _Value:
        ones = [self.reshaped(start, (1,)) for start in starts]
        start = self.node("Concat", (len(ones),), *ones, axis=0)
        return self._window(eqn, x, start, range(len(ones)))

    def _window(self, eqn: Any, x: _Value, start: _Value, axes: Sequence[int]) -> _Value:
        """The part of `x` from `start` [N] on along `axes`, of the equation's slice sizes."""
        sizes = eqn.params["slice_sizes"]
        x = self.full(x, eqn.invars[0].aval.shape)
        start = self.node("Cast", start.shape, start, to=self._type(np.int64))
        lengths = self.sizes_of([sizes[a] for a in axes])
        end = self.node("Add", start.shape, start, lengths)
        return self.sliced(x, sizes, axes, start, end)

    def _gather(self, eqn: Any, x: _Value, indices: _Value) -> _Value:
        numbers = eqn.params["dimension_numbers"]
        mapped, collapsed = numbers.start_index_map, numbers.collapsed_slice_dims
        shape = eqn.outvars[0].aval.shape
        if len(eqn.invars[1].aval.shape) == 1:  # one window
            return self.reshaped(self._window(eqn, x, indices, mapped), shape)
        every = tuple(range(len(eqn.invars[0].aval.shape)))
        if mapped == collapsed == every:  # single elements
            x = self.full(x, eqn.invars[0].aval.shape)
            indices = self.node("Cast", indices.shape, indices, to=self._type(np.int64))
            return self.node("GatherND", shape, x, indices)
        raise NotImplementedError(f"a gather of {numbers} has no translation to ONNX")

    def _scatter(self, eqn: Any, x: _Value, indices: _Value, updates: _Value) -> _Value:
        """Rows put where `indices` say; outside of `x` they are dropped."""
        numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
        leading = tuple(range(len(numbers.scatter_dims_to_operand_dims)))
        if not numbers.scatter_dims_to_operand_dims == numbers.inserted_window_dims == leading:
            raise NotImplementedError(f"a scatter of {numbers} has no translation to ONNX")
        # One more of each size takes what is dropped, and is cut off again.
        more = [1 if axis in leading else 0 for axis in range(len(shape))]
        larger = [size + extra for size, extra in zip(shape, more, strict=True)]
        pads = self.numbers(*[0] * len(shape), *more)
        zero = self.constant(np.zeros((), eqn.invars[0].aval.dtype))
        wide = self.node("Pad", larger, self.full(x, shape), pads, zero)
        at = self.node("Cast", indices.shape, indices, to=self._type(np.int64))
        limits = self.sizes_of([shape[axis] for axis in leading])
        at = self.node("Min", indices.shape, at, limits)
        rows = self.full(updates, eqn.invars[2].aval.shape)
        wide = self.node("ScatterND", larger, wide, at, rows)
        ends = self.sizes_of([shape[axis] for axis in leading])
        return self.sliced(wide, shape, leading, self.numbers(*[0] * len(leading)), ends)

    def _conv_general_dilated(self, eqn: Any, x: _Value, weight: _Value) -> _Value:
        params = eqn.params
        spec = params["dimension_numbers"]
        plain = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
        if (spec.lhs_spec, spec.rhs_spec, spec.out_spec) != plain or weight.constant is None:
            raise NotImplementedError("a convolution that is not NHWC, HWIO, NHWC")
        if weight.name not in self.kernels:
            self.kernels[weight.name] = self.constant(weight.constant.transpose(3, 2, 0, 1))
        kernel = self.kernels[weight.name]
        n, h, w, c = eqn.outvars[0].aval.shape
        channels_first = [x.shape[axis] for axis in (0, 3, 1, 2)]
        y = self.node(
            "Conv",
            (n, c, h, w),
            self.node("Transpose", channels_first, x, perm=(0, 3, 1, 2)),
            kernel,
            kernel_shape=kernel.shape[2:],
            strides=params["window_strides"],
            dilations=params["rhs_dilation"],
            pads=[int(pad) for pad in np.array(params["padding"]).T.ravel()],
            group=params["feature_group_count"],
        )
        return self.node("Transpose", (n, h, w, c), y, perm=(0, 2, 3, 1))

    def _dot_general(self, eqn: Any, left: _Value, right: _Value) -> _Value:
        shapes = [atom.aval.shape for atom in eqn.invars]
        (of_left, of_right), (each_left, each_right) = eqn.params["dimension_numbers"]
        operands = [self.full(v, s) for v, s in zip((left, right), shapes, strict=True)]
        shape = eqn.outvars[0].aval.shape
        last = len(shapes[0]) - 1
        if (of_left, of_right, each_left, len(shapes[1])) == ((last,), (0,), (), 2):
            return self.node("MatMul", shape, *operands)
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        first = [next(letters) for _ in shapes[0]]
        second = [next(letters) for _ in shapes[1]]
        for i, j in zip((*each_left, *of_left), (*each_right, *of_right), strict=True):
            second[j] = first[i]
        out = [first[i] for i in each_left]
        out += [c for i, c in enumerate(first) if i not in (*each_left, *of_left)]
        out += [c for i, c in enumerate(second) if i not in (*each_right, *of_right)]
        equation = f"{''.join(first)},{''.join(second)}->{''.join(out)}"
        return self.node("Einsum", shape, *operands, equation=equation)

    def _reduced(self, kind: str, eqn: Any, x: _Value) -> _Value:
        x = self.full(x, eqn.invars[0].aval.shape)
        axes = self.numbers(*eqn.params["axes"])
        return self.node(kind, eqn.outvars[0].aval.shape, x, axes, keepdims=0)

    def _reduce_sum(self, eqn: Any, x: _Value) -> _Value:
        return self._reduced("ReduceSum", eqn, x)

    def _reduce_max(self, eqn: Any, x: _Value) -> _Value:
        return self._reduced("ReduceMax", eqn, x)

    def _reduce_or(self, eqn: Any, x: _Value) -> _Value:
        number = self.node("Cast", x.shape, x, to=self._type(np.int32))
        most = self._reduced("ReduceMax", eqn, number)
        return self.node("Cast", most.shape, most, to=self._type(np.bool_))


def _is_fixed(eqn: Any) -> bool:
    """Whether no result's size is symbolic."""
    return all(isinstance(s, int) for var in eqn.outvars for s in var.aval.shape)


def _is_neutral(name: str, value: _Value, values: Sequence[_Value]) -> bool:
    """Whether `value` is a constant that leaves the other one as it is: + 0, * 1."""
    neutral = {"add": 0, "sub": 0, "mul": 1}.get(name)
    if value.constant is None or neutral is None or (name == "sub" and value is values[0]):
        return False
    others = [other for other in values if other is not value]
    small = value.constant.ndim == 0 or all(
        s == 1 or s == o for s, o in zip(value.shape, others[0].shape, strict=True)
    )
    # A folded BatchNorm's factor, 1 / sqrt(variance + epsilon), may be a rounding off 1.
    nearly = 1e-6 if name == "mul" else 0
    return small and bool(np.allclose(value.constant, neutral, rtol=0, atol=nearly))


def _broadcast(sizes: Sequence[Any]) -> Any:
    wide = [size for size in sizes if not (isinstance(size, int) and operator.eq(size, 1))]
    return wide[0] if wide else 1
