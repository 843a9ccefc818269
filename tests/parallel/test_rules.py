"""Sharding rules: the first match wins, and all problems are listed at once."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from mmjax.config import MeshConfig
from mmjax.parallel import make_mesh, match_rules
from mmjax.types import UserError

PARAMS = {
    "text": {"embedding": jax.ShapeDtypeStruct((34, 6), jnp.float32)},
    "out": {"kernel": jax.ShapeDtypeStruct((6, 10), jnp.float32), "bias": jax.ShapeDtypeStruct((10,), jnp.float32)},
}
RULES = ((r"text/embedding", ("model", "fsdp")), (r".*kernel", ("fsdp", None)), (r".*bias", (None,)))


def test_first_match_wins():
    found = match_rules(
        PARAMS, ((r"out/kernel", (None, "model")), *RULES[:1], (r".*bias", (None,))), make_mesh(MeshConfig(2, 2, 2))
    )
    assert found["out"]["kernel"].spec == PartitionSpec(None, "model")
    assert found["text"]["embedding"].spec == PartitionSpec("model", "fsdp")
    assert found["out"]["bias"].spec == PartitionSpec(None)


def test_all_problems_are_listed():
    rules = ((r"text/embedding", ("model", "fsdp")), (r"vision/.*", ()), (r"out/kernel", (None, "model")))
    with pytest.raises(UserError) as error:
        match_rules(PARAMS, rules, make_mesh(MeshConfig(1, 2, 4)))
    lines = [" ".join(line.split()) for line in str(error.value).splitlines()]
    assert lines[0] == "sharding rules:"
    assert sorted(lines[1:]) == [
        "out/bias no rule for this parameter of shape (10,)",
        "out/kernel model=4 does not divide 10 of shape (6, 10)",
        "text/embedding model=4 does not divide 34 of shape (34, 6)",
        "vision/.* no parameter for this rule",
    ]


@pytest.mark.parametrize("axes", [(), (None, "model")])
def test_rule_of_another_rank(axes):
    with pytest.raises(UserError, match=f"names {len(axes)} axes"):
        match_rules(PARAMS, (*RULES[:2], (r".*bias", axes)), make_mesh(MeshConfig()))
