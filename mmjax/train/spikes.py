"""Steps whose gradient is out of all proportion: told from the norms of the gradients before."""

import flax.struct
import jax
import jax.numpy as jnp

DECAY = 0.98  # of the running average
LEARNED = 20  # steps after which the average means something


@flax.struct.dataclass
class Norms:
    """The running average of the gradient's norm, float32, and of how many steps it is, int32."""

    average: jax.Array
    count: jax.Array


def no_norms() -> Norms:
    return Norms(jnp.zeros(()), jnp.zeros((), jnp.int32))


def judged(norms: Norms, norm: jax.Array, factor: float) -> tuple[Norms, jax.Array]:
    """The average with one norm more, and whether that is at most `factor` times the average before.

    A norm that is larger counts as the largest allowed, so that an average that has become too small for good grows
    within some steps; one that is not finite does not count.
    """
    learned = norms.count >= LEARNED
    largest = jnp.where(learned, jnp.float32(factor) * norms.average, jnp.inf)
    count = norms.count.astype(jnp.float32)
    decay = jnp.minimum(jnp.float32(DECAY), count / (count + 1.0))  # young averages forget faster
    average = decay * norms.average + (1.0 - decay) * jnp.minimum(norm, largest)
    finite = jnp.isfinite(norm)
    seen = Norms(jnp.where(finite, average, norms.average), norms.count + finite.astype(jnp.int32))
    return seen, norm <= largest
