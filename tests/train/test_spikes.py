"""The running average of the gradient norm, and which norms it calls spikes."""

import jax.numpy as jnp
import numpy as np

from mmjax.train.spikes import DECAY, WARMUP, GradNormEMA, init_grad_norm_ema, is_spike


def after(ema: GradNormEMA, *norms: float, factor: float = 5.0) -> tuple[GradNormEMA, list[bool]]:
    spikes = []
    for norm in norms:
        ema, spike = is_spike(ema, jnp.float32(norm), factor)
        spikes.append(bool(spike))
    return ema, spikes


def test_no_spikes_during_warmup() -> None:
    norms = np.random.default_rng(0).uniform(1, 100, WARMUP).tolist()
    ema, spikes = after(init_grad_norm_ema(), *norms)
    assert not any(spikes) and int(ema.count) == WARMUP
    np.testing.assert_allclose(ema.average, np.mean(norms), rtol=1e-5)


def test_spike_enters_the_average_clipped() -> None:
    warm, _ = after(init_grad_norm_ema(), *[2.0] * WARMUP)
    _, spikes = after(warm, 9.9, 10.1)
    assert spikes == [False, False]  # the first raised the average a little
    ema, spikes = after(warm, 1000.0)
    assert spikes == [True]
    np.testing.assert_allclose(ema.average, (WARMUP / (WARMUP + 1)) * 2 + 10 / (WARMUP + 1), rtol=1e-5)
    assert WARMUP / (WARMUP + 1) < DECAY


def test_non_finite_norms_are_spikes_and_leave_the_average() -> None:
    warm, _ = after(init_grad_norm_ema(), *[2.0] * WARMUP)
    ema, spikes = after(warm, float("nan"), float("inf"))
    assert spikes == [True, True]
    np.testing.assert_array_equal(ema.average, warm.average)
    assert int(ema.count) == WARMUP


def test_average_adapts_to_a_lasting_increase() -> None:
    warm, _ = after(init_grad_norm_ema(), *[2.0] * WARMUP)
    _, spikes = after(warm, *[40.0] * 60)
    assert spikes[0] and not spikes[-1]
