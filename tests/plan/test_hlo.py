"""Collectives of programs, written by hand in HLO and compiled for eight CPU devices."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import MeshConfig
from mmjax.parallel import make_mesh
from mmjax.plan.hlo import Collective, collectives
from mmjax.plan.program import parse, size

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=6

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.3 (p: f32[6,5]) -> f32[1,5] {
  %p = f32[6,5]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[6,5]{1,0:T(8,128)} all-reduce(%p), channel_id=4, replica_groups={{0,1,2,3,4,5}}, to_apply=%add
  ROOT %cut = f32[1,5]{1,0} dynamic-slice(%all-reduce.9, %p, %p), dynamic_slice_sizes={1,5}
}

%body (state: (s32[], bf16[7,3])) -> (s32[], bf16[7,3]) {
  %state = (s32[], bf16[7,3]{1,0}) parameter(0)
  %part = bf16[7,1]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %all-gather-start.1 = (bf16[7,1]{1,0}, bf16[7,3]{1,0}) all-gather-start(%part), replica_groups=[2,3]<=[3,2]T(1,0)
  %all-gather-done.1 = bf16[7,3]{1,0} all-gather-done(%all-gather-start.1)
  ROOT %next = (s32[], bf16[7,3]{1,0}) tuple(%state, %all-gather-done.1)
}

%condition (state.1: (s32[], bf16[7,3])) -> pred[] {
  %state.1 = (s32[], bf16[7,3]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%state.1, %state.1), direction=LT
}

%wrapped (q: f32[12]) -> f32[6] {
  %q = f32[12]{0} parameter(0)
  ROOT %reduce-scatter.1 = f32[6]{0} reduce-scatter(%q), replica_groups=[3,2]<=[6], to_apply=%add
}

ENTRY %main (a: f32[6,5], b: bf16[7,3]) -> f32[] {
  %a = f32[6,5]{1,0} parameter(0)
  %b = (s32[], bf16[7,3]{1,0}) parameter(1)
  %fusion.1 = f32[1,5]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3
  %while.1 = (s32[], bf16[7,3]{1,0}) while(%b), condition=%condition, body=%body, backend_config=TRIPS
  %all-reduce-start.1 = (f32[], f32[11]{0}) all-reduce-start(%a, %a), channel_id=2, replica_groups={}, to_apply=%add
  %all-reduce-done.1 = (f32[], f32[11]{0}) all-reduce-done(%all-reduce-start.1)
  %all-reduce.2 = f32[5]{0} all-reduce(%a), channel_id=3, replica_groups={{0},{1},{2},{3},{4},{5}}, to_apply=%add
  %permute = u8[13]{0} collective-permute(%a), channel_id=6, source_target_pairs={{0,2},{2,4},{4,0}}
  %start = ((f32[12]{0}), f32[6]{0}, u32[]) async-start(%a), calls=%wrapped
  %begin = f32[9]{0} fusion(%a), kind=kCustom, calls=%first_bits
  %end = f32[9]{0} fusion(%begin), kind=kCustom, calls=%last_bits
  %zero = u32[] constant(0)
  %turns = (bf16[5]{0}, u32[]) tuple(%a, %zero)
  %windows = (bf16[5]{0}, u32[]) while(%turns), condition=%less_than_8, body=%two_more
  ROOT %done = f32[6]{0} async-done(%start), calls=%wrapped
}

%first_bits (u: f32[3]) -> f32[9] {
  %u = f32[3]{0} parameter(0)
  ROOT %all-gather.5 = f32[9]{0} all-gather(%u), channel_id=77, replica_groups=mesh['a'=2,'b'=3] {'b'}, dimensions={0}
}

%last_bits (v: f32[3]) -> f32[9] {
  %v = f32[3]{0} parameter(0)
  ROOT %all-gather.6 = f32[9]{0} all-gather(%v), channel_id=77, replica_groups=mesh['a'=2,'b'=3] {'b'}, dimensions={0}
}

%less_than_8 (w: (bf16[5], u32[])) -> pred[] {
  %w = (bf16[5]{0}, u32[]) parameter(0)
  %eight = u32[]{:T(128)} constant(8)
  %count = u32[]{:T(128)} get-tuple-element(%w), index=1
  ROOT %go = pred[] compare(%count, %eight), direction=LT
}

%two_more (s: (bf16[5], u32[])) -> (bf16[5], u32[]) {
  %s = (bf16[5]{0}, u32[]) parameter(0)
  %one = u32[] constant(1)
  %held = bf16[5]{0} get-tuple-element(%s), index=0
  %now = u32[] get-tuple-element(%s), index=1
  %once = u32[] add(%now, %one)
  %twice = u32[] add(%once, %one)
  %go-on = (bf16[5]{0}, bf16[5]{0}, u32[], u32[]) collective-permute-start(%held), channel_id=9, \
source_target_pairs={{1,0},{0,1}}
  %gone = bf16[5]{0} collective-permute-done(%go-on)
  ROOT %more = (bf16[5]{0}, u32[]) tuple(%gone, %twice)
}
"""


PROGRAM = PROGRAM.replace("TRIPS", '{"known_trip_count":{"n":"14"}}')


def test_collectives_and_their_trip_counts() -> None:
    assert sorted(collectives(parse(PROGRAM), 6), key=lambda found: (found.kind, found.size)) == [
        Collective("all-gather", 36, (0, 1, 2)),
        Collective("all-gather", 42, (0, 2, 4), 14),
        Collective("all-reduce", 48, (0, 1, 2, 3, 4, 5)),
        Collective("collective-permute", 10, (1, 0), 4),
        Collective("collective-permute", 13, (0, 2)),
        Collective("reduce-scatter", 48, (0, 1)),
        Collective("reduce-scatter", 120, (0, 1, 2, 3, 4, 5)),
    ]


def test_elements_of_tuples_in_short_form() -> None:
    """As libtpu 0.0.52 writes `%w#1` for `get-tuple-element(%w), index=1`."""
    text = PROGRAM
    for line, name, of, index in re.findall(r"(  %(\S+) = \S+ get-tuple-element\(%(\w+)\), index=(\d+)\n)", PROGRAM):
        text = re.sub(rf"%{name}\b", f"%{of}#{index}", text.replace(line, ""))
    assert "get-tuple-element" not in text and "%w#1" in text
    assert collectives(parse(text), 6) == collectives(parse(PROGRAM), 6)
    element = parse(text).computations["body"]["state#1"]
    assert (element.operation, element.result) == ("get-tuple-element", "bf16[7,3]{1,0}")


BETWEEN_SLICES = """
ENTRY %main (a: f32[6,5]) -> f32[6,5] {
  %a = f32[6,5]{1,0} parameter(0)
  %after = token[] after-all()
  %send = (f32[6,5]{1,0}, u32[]{:S(2)}, token[]) send(%a, %after), channel_id=3, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[6,5]{1,0}, u32[]{:S(2)}, token[]) recv(%after), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send.1 = (f32[6,5]{1,0}, u32[]{:S(2)}, token[]) send(%a, %after), channel_id=5, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",_xla_megascale_transfer_type="ALL_GATHER"}
  %send.2 = (f32[6,5]{1,0}, u32[]{:S(2)}, token[]) send(%a, %after), channel_id=7, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target={{200000->100001}},_xla_megascale_transfer_type="ONE_TO_ONE"}
  %swap = f32[6,5]{1,0} collective-permute(%a), channel_id=8, source_target_pairs={{0,0},{1,2},{2,1},{3,3}}
  ROOT %same = f32[6,5]{1,0} collective-permute(%a), channel_id=9, source_target_pairs={{0,0}}
}
"""


def test_collectives_between_slices() -> None:
    """As libtpu compiles for three slices of four devices: each sends to those at its place in the other slices."""
    assert collectives(parse(BETWEEN_SLICES), 12, slices=3) == [
        Collective("all-reduce", 120, (0, 4, 8)),
        Collective("all-gather", 360, (0, 4, 8)),
        Collective("collective-permute", 120, (0, 4)),
        Collective("collective-permute", 120, (1, 2)),
    ]
    with pytest.raises(ValueError, match="no traffic between slices"):
        collectives(parse(PROGRAM), 6, slices=2)


@pytest.mark.parametrize(
    ("along", "group"), [("'a'", (0, 8)), ("'b'", tuple(range(8))), ("'b':(2)4", (0, 1, 2, 3)), ("'b':(1)2", (0, 4))]
)
def test_replica_groups_along_mesh_axes(along: str, group: tuple[int, ...]) -> None:
    text = PROGRAM.replace("mesh['a'=2,'b'=3] {'b'}", f"mesh['a'=2,'b'=8] {{{along}}}")
    assert group in {each.group for each in collectives(parse(text), 16)}


def test_unknown_trip_count() -> None:
    with pytest.raises(ValueError, match=r"while\.1"):
        collectives(parse(PROGRAM.replace("known_trip_count", "unknown")), 6)


@pytest.mark.parametrize(
    ("kind", "sent"), [("all-gather", 80), ("reduce-scatter", 80), ("all-reduce", 160), ("collective-permute", 100)]
)
def test_bytes_sent(kind: str, sent: float) -> None:
    assert Collective(kind, 100, (0, 1, 2, 3, 4)).sent == sent
    assert Collective(kind, 100, (0, 1, 2, 3, 4), 3).sent == 3 * sent


def test_size() -> None:
    assert size("(f32[2,3]{1,0:T(8,128)}, bf16[5], pred[7], s32[], u8[4], f8e4m3fn[3])") == 24 + 10 + 7 + 4 + 4 + 3


def test_compiled_scan_over_layers() -> None:
    """Fully sharded layers, 3 of 16 x 16 in float32: gathered forward and backward, their gradients summed up."""
    mesh = make_mesh(MeshConfig(1, 8, 1))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    spread = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    w = jax.ShapeDtypeStruct((3, 16, 16), jnp.float32, sharding=spread)

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
            x = jax.lax.with_sharding_constraint(jnp.tanh(x @ w), NamedSharding(mesh, PartitionSpec("fsdp")))
            return x, None

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), x, w)[0])

    program = jax.jit(jax.grad(loss), out_shardings=spread).lower(w, x).compile()
    found = collectives(parse(program.as_text()), 8)
    gathered = sum(each.sent for each in found if each.kind == "all-gather")
    summed = sum(each.sent for each in found if each.kind in ("all-reduce", "reduce-scatter"))
    whole = 3 * 16 * 16 * 4
    assert gathered == pytest.approx(2 * whole * 7 / 8)
    assert summed in (pytest.approx(whole * 7 / 8), pytest.approx(2 * whole * 7 / 8))  # by parts, or summed up whole
    assert {len(each.group) for each in found} == {8}
