"""Kernels, bytes and arithmetic of a program that was counted by hand."""

from hlo_cost import kernels

# As XLA prints an optimised program; sizes are small numbers, so that sums can be checked.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_row (whole: bf16[100,8], other: f32[8]) -> f32[8] {
  %whole = bf16[100,8]{1,0} parameter(0)
  %other = f32[8]{0} parameter(1)
  %wide = f32[100,8]{1,0} convert(%whole)
  %row = f32[1,8]{1,0} slice(%wide), slice={[3:4], [0:8]}
  %flat = f32[8]{0} bitcast(%row)
  ROOT %both = f32[8]{0} add(%flat, %other)
}

%fused_put (whole.1: f32[100,8], row.1: f32[1,8], at: s32[]) -> f32[100,8] {
  %whole.1 = f32[100,8]{1,0} parameter(0)
  %row.1 = f32[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%whole.1, %row.1, %at, %zero)
}

%gemm (left: bf16[4,16], right: bf16[16,5]) -> f32[4,5] {
  %left = bf16[4,16]{1,0} parameter(0)
  %right = bf16[16,5]{1,0} parameter(1)
  ROOT %dot = f32[4,5]{1,0} dot(%left, %right), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p0: bf16[2,6,6,3], p1: bf16[7,3,3,3], p2: bf16[100,8], p3: f32[8]) -> f32[8] {
  %p0 = bf16[2,6,6,3]{3,2,1,0} parameter(0)
  %p1 = bf16[7,3,3,3]{3,2,1,0} parameter(1)
  %p2 = bf16[100,8]{1,0} parameter(2)
  %p3 = f32[8]{0} parameter(3)
  %p4 = f32[100,8]{1,0} parameter(4)
  %p5 = bf16[4,16]{1,0} parameter(5)
  %p6 = bf16[16,5]{1,0} parameter(6)
  %p7 = s32[] parameter(7)
  %conv = (bf16[2,6,6,7]{3,2,1,0}, u8[10]{0}) custom-call(%p0, %p1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/conv"}
  %get = bf16[2,6,6,7]{3,2,1,0} get-tuple-element(%conv), index=0
  %weight = (bf16[7,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%p0, %get), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %input = (bf16[2,6,6,3]{3,2,1,0}, u8[0]{0}) custom-call(%get, %p1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %product = f32[4,5]{1,0} fusion(%p5, %p6), kind=kCustom, calls=%gemm
  %put.1 = f32[100,8]{1,0} fusion(%p4, %row.2, %p7), kind=kLoop, calls=%fused_put
  %copy = f32[8]{0} copy(%p3)
  ROOT %row.2 = f32[8]{0} fusion(%p2, %copy), kind=kLoop, calls=%fused_row
}
"""  # noqa: E501

MAPS = 2 * 6 * 6
# 3x3 products from 3 to 7 channels at each pixel: the same for all three convolutions.
CONVOLUTION = 2 * MAPS * 9 * 3 * 7


def test_a_program_counted_by_hand() -> None:
    images, outputs, weight = 2 * MAPS * 3, 2 * MAPS * 7, 2 * 7 * 9 * 3
    found = {kernel.name: (kernel.moved, kernel.flops) for kernel in kernels(TEXT)}
    assert found == {
        "conv": (images + weight + outputs + 10, CONVOLUTION),
        "weight": (images + outputs + weight, CONVOLUTION),
        "input": (outputs + weight + images, CONVOLUTION),
        "product": (2 * 4 * 16 + 2 * 16 * 5 + 4 * 4 * 5, 2 * 4 * 5 * 16),
        "put.1": (32 + 32 + 4, 0),  # a row is read and written, in place, and its number read
        "copy": (64, 0),
        "row.2": (16 + 32 + 32, 0),  # one row of the 100, in bfloat16
    }


def test_origins_are_those_of_jax() -> None:
    origins = {kernel.name: kernel.origin for kernel in kernels(TEXT)}
    assert origins["conv"] == "jit(step)/conv"
    assert origins["copy"] == ""
