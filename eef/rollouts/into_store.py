"""Playing specs into a store: those that it does not hold yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eef.env import Env
from eef.errors import EnvError
from eef.policy import FreePolicy, Policy, Replays
from eef.rollouts.free_runner import FreeRunner
from eef.rollouts.ray_runner import RayRunner, RolloutHosts
from eef.rollouts.runner import RolloutParameters, RolloutRunner, batches
from eef.rollouts.specs import RolloutSpec, attempt_ids
from eef.rollouts.store import Store
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.progress import OnProgress, Progress, ignore_progress
from eef.utils.seeds import derive_seed


def play_into_store(
    specs: Sequence[RolloutSpec],
    store: Store,
    env: Env,
    policy: Policy,
    parameters: RolloutParameters,
    *,
    subject: object = "rollouts",
    before: Sequence[RolloutSpec] = (),
    hosts: RolloutHosts | None = None,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Play every spec that is not in the store; failed rollouts get a second attempt (suffix `~1`).

    If it is called again after an interruption, the store ends up as after an uninterrupted call
    (with a server as the policy, rollouts that were not stored yet may end differently). Therefore,
    if completions depend on their batch (`Policy.replays` is "batch"), an incomplete batch is
    played again as a whole, and only its missing trajectories are appended.

    `before` are earlier specs of the same stage; progress counts them too. `on_progress` is called
    after a trajectory has been stored, so that an exception in it loses nothing. `hosts` play the
    rollouts of a policy behind servers in a Ray cluster.

    EnvError if a spec starts inside a trajectory that was never verified in the environment, or if
    the environment cannot be replayed.
    """
    _refuse_unverified(specs, store.trajectories, env)
    counter = _Counter([*before, *specs], store, subject, on_progress)
    free = isinstance(policy, FreePolicy)
    with _make_runner(env, policy, store.trajectories, parameters, hosts) as runner:

        def play(wanted: Sequence[RolloutSpec]) -> None:
            for batch in [wanted] if free else batches(wanted, parameters.batch_size):
                _play_missing(batch, store, runner, policy.replays, counter)

        play(specs)
        play([_second_attempt(spec) for spec in specs if _failed(store.trajectories[spec.id])])


def _make_runner(
    env: Env,
    policy: Policy,
    trajectories: TrajectorySet,
    parameters: RolloutParameters,
    hosts: RolloutHosts | None,
) -> RolloutRunner | RayRunner:
    if hosts is not None:
        return RayRunner(trajectories, parameters, hosts)
    kind: type[RolloutRunner] = FreeRunner if isinstance(policy, FreePolicy) else RolloutRunner
    return kind(env, policy, trajectories, parameters)


class _Counter:
    """Counts the rollouts of a stage and reports progress."""

    def __init__(
        self, specs: Sequence[RolloutSpec], store: Store, subject: object, on_progress: OnProgress
    ) -> None:
        stored = [store.trajectories[spec.id] for spec in specs if spec.id in store.trajectories]
        self._planned = len(specs)
        self._done, self._wins = len(stored), sum(item.success for item in stored)
        self._subject, self._on_progress = subject, on_progress
        on_progress(Progress(subject, self._done, self._planned))

    def add(self, trajectory: Trajectory) -> None:
        self._done, self._wins = self._done + 1, self._wins + trajectory.success
        total = max(self._done, self._planned)
        self._on_progress(Progress(self._subject, self._done, total, f"{self._wins} won"))


def _play_missing(
    batch: Sequence[RolloutSpec],
    store: Store,
    runner: RolloutRunner | RayRunner,
    replays: Replays,
    counter: _Counter,
) -> None:
    """Play the rollouts of a batch that are not in the store."""
    missing = [spec for spec in batch if spec.id not in store.trajectories]
    if not missing:
        return
    for trajectory in runner.play(missing if replays == "alone" else batch):
        if trajectory.id not in store.trajectories:
            store.append(trajectory)
            counter.add(trajectory)


def _refuse_unverified(specs: Sequence[RolloutSpec], trajectories: TrajectorySet, env: Env) -> None:
    """EnvError for a start state that may not be reachable in this environment."""
    for spec in specs:
        origin = trajectories[spec.state.trajectory] if spec.state is not None else None
        if origin is not None and not env.replayable:
            raise EnvError(
                f"cannot branch from {spec.state}: environment {env.name!r} cannot be replayed",
                hint="start at tasks alone, as behavior cloning and RFT do",
            )
        if origin is not None and not origin.replayable:
            raise EnvError(
                f"cannot branch from {spec.state}: that trajectory ({origin.source}) was not "
                "verified in this environment",
                hint="import it with the environment it was recorded in; behavior cloning can use "
                "it as it is",
            )


def _failed(trajectory: Trajectory) -> bool:
    """Whether a second attempt may help; it cannot after a replay mismatch, which would recur."""
    return trajectory.status == "error" and trajectory.error_kind != "replay"


def _second_attempt(spec: RolloutSpec) -> RolloutSpec:
    return replace(spec, id=attempt_ids(spec.id)[1], seed=derive_seed(spec.seed, 1))
