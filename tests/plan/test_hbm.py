"""HBM traffic of a small program, counted by hand."""

from mmjax.plan.hbm import bytes_accessed
from mmjax.plan.program import parse

PROGRAM = """HloModule made

%cut (stack: f32[5,8,4], i: s32[], x: f32[8,4]) -> f32[8,4] {
  %i = s32[] parameter(1)
  %stack = f32[5,8,4]{2,1,0} parameter(0)
  %x = f32[8,4]{1,0} parameter(2)
  %slice = f32[1,8,4]{2,1,0} dynamic-slice(%stack, %i, %i, %i), dynamic_slice_sizes={1,8,4}
  %flat = f32[8,4]{1,0} bitcast(%slice)
  ROOT %sum = f32[8,4]{1,0} add(%flat, %x)
}

%put (kept: f32[5,8,4], y: f32[8,4], j: s32[]) -> f32[5,8,4] {
  %kept = f32[5,8,4]{2,1,0} parameter(0)
  %y = f32[8,4]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %part = f32[1,8,4]{2,1,0} bitcast(%y)
  ROOT %replaced = f32[5,8,4]{2,1,0} dynamic-update-slice(%kept, %part, %j, %j, %j)
}

%body (state: (s32[], f32[8,4], f32[5,8,4])) -> (s32[], f32[8,4], f32[5,8,4]) {
  %state = (s32[], f32[8,4], f32[5,8,4]) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %a = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %all = f32[5,8,4]{2,1,0} get-tuple-element(%state), index=2
  %next = f32[8,4]{1,0:T(8,128)S(1)} fusion(%all, %n, %a), kind=kLoop, calls=%cut
  %back = f32[5,8,4]{2,1,0} fusion(%all, %next, %n), kind=kLoop, calls=%put
  ROOT %result = (s32[], f32[8,4], f32[5,8,4]) tuple(%n, %next, %back)
}

%condition (state.1: (s32[], f32[8,4], f32[5,8,4])) -> pred[] {
  %state.1 = (s32[], f32[8,4], f32[5,8,4]) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (p: (s32[], f32[8,4], f32[5,8,4]), q: f32[8,16], r: bf16[16,4]) -> f32[8,4] {
  %p = (s32[], f32[8,4], f32[5,8,4]) parameter(0)
  %q = f32[8,16]{1,0} parameter(1)
  %r = bf16[16,4]{1,0} parameter(2)
  %loop = (s32[], f32[8,4], f32[5,8,4]) while(%p), condition=%condition, body=%body, backend_config=TRIPS
  ROOT %product = f32[8,4]{1,0} dot(%q, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_bytes_accessed() -> None:
    part, index = 8 * 4 * 4, 4
    cut = part + index + part  # a part of the stack, where, and x; the result stays in the cores' memory
    put = 0 + index + part  # what is kept is not read, y is in the cores' memory; one part is written
    product = 8 * 16 * 4 + 16 * 4 * 2 + 8 * 4 * 4
    text = PROGRAM.replace("TRIPS", '{"known_trip_count":{"n":"5"}}')
    assert bytes_accessed(parse(text)) == 5 * (cut + put) + product
