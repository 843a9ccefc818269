"""Adversarial training: the Dirac-GAN, the schedule of both networks, and separate gradients."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.config import MeshConfig
from mmjax.losses import LOSSES, TrainingLoss, adversarial
from mmjax.parallel import Placement, make_mesh
from mmjax.train.adversary import Adversary
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.state import make_state
from mmjax.train.step import make_step

RATE = 0.25


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def training_loss(weights):
    """The sum of terms, weighted, of a generator that maps `x` of the batch."""
    configs = {name: LOSSES[name].config(name, weight) for name, weight in weights.items()}
    return TrainingLoss({name: LOSSES[name] for name in weights}, configs, lambda batch, key: {"x": batch["x"]})


def game(loss="non_saturating", regularizer="none", weight=0.0, tx=None, grad_accum_steps=1, **when):
    """Mescheder et al. 2018's Dirac-GAN: originals lie at 0, the generator draws theta, and D(x) = psi x."""
    tx = tx or optax.sgd(RATE)
    judge = lambda params, x: (params["psi"] * x, [x])  # noqa: E731
    goal = adversarial.Adversarial(judge, loss, regularizer, weight)
    second = Adversary(lambda key: {"psi": jnp.float32(0.9)}, tx, goal, ("adversarial",), **when)
    first = training_loss({"adversarial": 1.0})
    make = make_state(lambda key: {"theta": jnp.float32(1.3)}, tx, 0, True, second)
    apply = lambda params, x: {"image": params["theta"] * jnp.ones_like(x)}  # noqa: E731
    return make(), jax.jit(make_step(apply, first, tx, grad_accum_steps, 0.9, second))


def batch_of(values=(0.0, 0.0, 0.0, 0.0), mask=(True, True, False, True)):
    image = jnp.asarray(values, jnp.float32)[:, None]
    return {"image": image, "x": image, "mask": jnp.asarray(mask)}


def played(state, step, count, batch=None):
    """The moves (theta, psi), the last metrics and the state."""
    moves, metrics = [(float(state.params["theta"]), float(state.adversary.params["psi"]))], None
    for _ in range(count):
        state, metrics = step(state, batch or batch_of())
        moves.append((float(state.params["theta"]), float(state.adversary.params["psi"])))
    return np.array(moves), metrics, state


@pytest.mark.parametrize(("regularizer", "weight"), [("none", 0.0), ("r1", 0.7)])
def test_updates_match_the_dirac_gan(regularizer, weight):
    """Equation 3 there, with R1's gradient, weight times psi; both move at once."""
    found, _, _ = played(*game(regularizer=regularizer, weight=weight), 7)
    theta, psi = 1.3, 0.9
    for move in found[1:]:
        theta, psi = (
            theta + RATE * psi * sigmoid(-psi * theta),
            psi - RATE * (theta * sigmoid(psi * theta) + weight * psi),
        )
        np.testing.assert_allclose(move, (theta, psi), rtol=1e-5)


def test_hinge_updates():
    found, _, _ = played(*game("hinge"), 3)
    theta, psi = 1.3, 0.9
    for move in found[1:]:
        theta, psi = theta + RATE * psi, psi - RATE * theta * (1 + psi * theta > 0)
        np.testing.assert_allclose(move, (theta, psi), rtol=1e-5)


def test_regularized_training_converges_and_unregularized_cycles():
    """Mescheder et al. 2018, section 2 and theorem 4.1: the equilibrium is (0, 0)."""
    regularized, _, _ = played(*game(regularizer="r1", weight=1.0), 90)
    assert np.abs(regularized[-1]).max() < 1e-3
    bare, _, _ = played(*game(), 90)
    assert np.abs(bare[-1]).max() > 0.3


def test_lecam_uses_averages_of_earlier_steps():
    state, step = game(regularizer="lecam", weight=0.3)
    values = (0.5, -1.0, 9.0, 2.0)
    real = np.array([0.5, -1.0, 2.0])
    theta, psi, averages, seen = 1.3, 0.9, {"real": 0.0, "fake": 0.0}, []
    for number in range(4):
        state, metrics = step(state, batch_of(values))
        extra = np.mean((psi * real - averages["fake"]) ** 2) + (psi * theta - averages["real"]) ** 2
        assert float(metrics["discriminator/regularizer"]) == pytest.approx(extra, rel=1e-5)
        seen.append({"real": psi * real.mean(), "fake": psi * theta})
        averages = {name: np.mean([each[name] for each in seen]) for name in averages}  # as long as they are young
        for name, value in averages.items():
            assert float(state.adversary.averages[name]) == pytest.approx(value, rel=1e-5), number
        theta, psi = float(state.params["theta"]), float(state.adversary.params["psi"])


def test_losses_start_at_their_step():
    state, step = game(train_from=2, start=4, regularizer="lecam", weight=0.1, tx=optax.adam(0.1))
    moves, _, state = played(state, step, 6)
    np.testing.assert_array_equal(np.diff(moves[:, 1]) != 0, [False, False, True, True, True, True])
    np.testing.assert_array_equal(np.diff(moves[:, 0]) != 0, [False, False, False, False, True, True])
    assert int(state.adversary.opt_state[0].count) == 4 and int(state.opt_state[0].count) == 6
    assert step._cache_size() == 1


@pytest.fixture(name="optimized")
def compiled_as_for_users() -> Iterator[None]:
    """Two programs give the same bits only where the compiler arranges the same sums alike."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("optimized")
def test_generator_before_start_trains_as_without_discriminator():
    """And beside it the discriminator learns."""
    tx = optax.adam(0.1)
    judge = lambda params, x: (params["psi"] * x, [params["psi"] * x])  # noqa: E731
    terms, goal = ("adversarial", "feature_matching"), adversarial.Adversarial(judge, "hinge")
    second = Adversary(lambda key: {"psi": jnp.float32(0.9)}, tx, goal, terms, start=3)
    apply = lambda params, x: {"image": params["theta"] * x}  # noqa: E731
    batch = batch_of((0.3, -1.0, 2.0, 0.7))

    def run(weights, adversary):
        first = training_loss(weights)
        state = make_state(lambda key: {"theta": jax.random.normal(key)}, tx, 5, False, adversary)()
        step, states = jax.jit(make_step(apply, first, tx, adversary=adversary)), []
        for _ in range(4):
            state, metrics = step(state, batch)
            states.append((state, metrics))
        return states

    alone = run({"mean_squared_error": 1.0}, None)
    both = run({"mean_squared_error": 1.0, "adversarial": 0.5, "feature_matching": 2.0}, second)
    for (one, _), (two, metrics) in zip(alone[:3], both[:3], strict=True):
        np.testing.assert_array_equal(one.params["theta"], two.params["theta"])
        assert float(metrics["loss"]) == float(metrics["mean_squared_error"])
        assert float(metrics["feature_matching"]) > 0
    assert float(alone[3][0].params["theta"]) != float(both[3][0].params["theta"])
    assert len({float(state.adversary.params["psi"]) for state, _ in both}) == 4


def test_gradients_do_not_cross_between_generator_and_discriminator():
    """Alone each would make its loss as small as it likes; a shared gradient would show in the other's parameter."""
    state, step = game(tx=optax.sgd(RATE))
    frozen = state.replace(adversary=state.adversary.replace(params={"psi": jnp.float32(0.0)}))
    theta, psi = played(frozen, step, 1)[0][1]
    assert theta == np.float32(1.3)  # psi = 0 tells nothing
    assert psi == pytest.approx(-RATE * 1.3 / 2)  # and yet learns from what was drawn
    aside = state.replace(params={"theta": jnp.float32(0.0)})
    theta, psi = played(aside, step, 1)[0][1]
    assert psi == np.float32(0.9)  # 0 looks like the originals
    assert theta == pytest.approx(RATE * 0.9 / 2)


@pytest.mark.parametrize("spoiled", ["first", "second"])
def test_nonfinite_step_changes_neither_network(spoiled):
    state, step = game(regularizer="lecam", weight=0.1, tx=optax.adam(0.1))
    _, _, before = played(state, step, 2)
    bad = jnp.full((4, 1), jnp.nan)
    # The generator here does not look at the originals, so these spoil the discriminator's loss alone.
    batch = batch_of() | ({"image": bad} if spoiled == "second" else {})
    if spoiled == "first":
        before = before.replace(params={"theta": jnp.float32(jnp.nan)})
    after, metrics = step(before, batch)
    assert int(metrics["nonfinite_steps"]) == 1 and int(after.step) == 3
    assert np.isfinite(float(metrics["loss"])) == (spoiled == "second")
    old = (before.params, before.opt_state, before.ema, before.adversary)
    jax.tree.map(np.testing.assert_array_equal, old, (after.params, after.opt_state, after.ema, after.adversary))


@pytest.mark.parametrize("regularizer", ["r1", "lecam"])
def test_gradient_accumulation_equals_the_whole_batch(regularizer):
    batch = batch_of((0.5, -1.0, 9.0, 2.0, 0.1, 0.4, -0.7, 1.1), (True, True, False, True, False, True, True, True))
    whole = played(*game(regularizer=regularizer, weight=0.3), 3, batch)
    parts = played(*game(regularizer=regularizer, weight=0.3, grad_accum_steps=4), 3, batch)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
    for name, value in whole[1].items():
        assert float(parts[1][name]) == pytest.approx(float(value), rel=1e-4), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts[2].adversary, whole[2].adversary)


def test_resume_is_bitwise_identical_and_evaluation_needs_no_discriminator(tmp_path):
    state, step = game(regularizer="lecam", weight=0.1, tx=optax.adam(0.1), start=4)
    _, _, halfway = played(state, step, 3, batch_of((0.5, -1.0, 9.0, 2.0)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(halfway, {})
    checkpoints.wait()
    sharding = Placement(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])).replicated
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
    resumed = checkpoints.restore(shapes)
    number, params = checkpoints.restore_params()
    assert number == 3 and set(params) == {"theta"}
    checkpoints.close()
    _, _, one = played(halfway, step, 4, batch_of((0.1, 0.2, 0.3, 0.4)))
    _, _, two = played(resumed, step, 4, batch_of((0.1, 0.2, 0.3, 0.4)))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert float(one.adversary.averages["real"]) != float(halfway.adversary.averages["real"])
