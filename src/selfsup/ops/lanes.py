"""Eight float32 numbers in a vector register, for kernels whose loops the compiler does not see through.

LLVM makes of them what the processor has: two registers of four, one of eight, or half of one of sixteen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

LANES = 8
primitive = cast(Callable[[Callable[..., Any]], Any], intrinsic)  # who calls one leaves out its first argument
VECTOR = ir.VectorType(ir.FloatType(), LANES)
# A product and the sum that it goes to become one instruction where the processor has one; the order is the caller's.
FLAGS = ("contract",)


class LanesType(types.Type):
    """The type of eight numbers, to numba."""

    def __init__(self) -> None:
        super().__init__("Lanes")


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """What eight numbers are, to LLVM."""

    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, VECTOR)


lanes = LanesType()


def _require_float32(array: Any) -> None:
    """Refuse what would be read as other numbers than it holds."""
    if array.dtype != types.float32:
        raise TypingError(f"lanes are float32, not {array.dtype}")


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, kind: ir.Type = VECTOR) -> Any:
    """Where the eight numbers array[i, j], array[i, j + 1], ... lie; nobody checks that they do."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    place = [context.cast(builder, args[k], signature.args[k], types.intp) for k in (1, 2)]
    return builder.bitcast(
        cgutils.get_item_pointer(context, builder, signature.args[0], array, place), kind.as_pointer()
    )


@primitive
def load(typing: Any, array: Any, i: Any, j: Any) -> Any:
    """The eight numbers from array[i, j] on, of a (N, M) float32 array whose rows are contiguous."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, args), align=4)

    _require_float32(array)
    return lanes(array, i, j), build


@primitive
def store(typing: Any, array: Any, i: Any, j: Any, value: Any) -> Any:
    """array[i, j], array[i, j + 1], ... become the eight numbers."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[3], _pointer(context, builder, signature, args), align=4)
        return context.get_dummy_value()

    _require_float32(array)
    return types.void(array, i, j, value), build


@primitive
def prefetch(typing: Any, array: Any, i: Any, j: Any) -> Any:
    """Ask the memory for array[i, j], which will be read and written soon."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte.as_pointer()], kind)
        to_write, soon, data = number(1), number(3), number(1)
        builder.call(function, [_pointer(context, builder, signature, args, byte), to_write, soon, data])
        return context.get_dummy_value()

    return types.void(array, i, j), build


@primitive
def zero(typing: Any) -> Any:
    """Eight zeros."""
    return lanes(), lambda *_: ir.Constant(VECTOR, [0.0] * LANES)


@primitive
def madd(typing: Any, x: Any, v: Any, total: Any) -> Any:
    """Total + x v, of a number x and eight numbers v."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        number, nothing = ir.IntType(32), ir.Constant(VECTOR, ir.Undefined)
        first = builder.insert_element(nothing, args[0], ir.Constant(number, 0))
        everywhere = ir.Constant(ir.VectorType(number, LANES), [0] * LANES)
        x = builder.shuffle_vector(first, nothing, everywhere)
        return builder.fadd(args[2], builder.fmul(x, args[1], flags=FLAGS), flags=FLAGS)

    return lanes(types.float32, lanes, lanes), build


@primitive
def column(typing: Any, array: Any, j: Any) -> Any:
    """The eight numbers array[0, j], array[1, j], ... of an (8, M) float32 array."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector, array = ir.Constant(VECTOR, ir.Undefined), context.make_array(signature.args[0])
        array = array(context, builder, args[0])
        place = context.cast(builder, args[1], signature.args[1], types.intp)
        for row in range(LANES):
            index = [context.get_constant(types.intp, row), place]
            number = builder.load(cgutils.get_item_pointer(context, builder, signature.args[0], array, index))
            vector = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), row))
        return vector

    _require_float32(array)
    return lanes(array, j), build
