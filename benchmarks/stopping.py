"""The cost of asking at every step whether all processes are to stop.

python launch/processes.py -n 2 -- python benchmarks/stopping.py
"""

import sys
import time

import jax

from mmjax.parallel import processes

CALLS = 10_000


def main() -> int:
    processes.connect()
    if not processes.is_multiprocess():
        print("stopping.py: needs several processes; see the first lines of this file", file=sys.stderr)
        return 2
    jax.devices()
    begin = time.perf_counter()
    for _ in range(CALLS):
        processes.preempted()
    processes.log_primary(f"{1e6 * (time.perf_counter() - begin) / CALLS:.2f} microseconds a step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
