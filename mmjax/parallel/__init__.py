"""Meshes, sharding rules and processes: the only code that knows Mesh and PartitionSpec."""

from mmjax.parallel import processes as processes
from mmjax.parallel.mesh import BATCH, Placement, make_mesh, match_rules, mesh_sizes

__all__ = ["BATCH", "Placement", "make_mesh", "match_rules", "mesh_sizes", "processes"]
