"""Meshes, sharding rules and placing: the only code that knows Mesh and PartitionSpec."""

from mmjax.parallel import processes as processes
from mmjax.parallel.mesh import Placement, make_mesh
from mmjax.parallel.rules import match_rules

__all__ = ["Placement", "make_mesh", "match_rules", "processes"]
