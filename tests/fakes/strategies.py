"""Hypothesis strategies for records: trajectories with any text that branch from one another."""

from __future__ import annotations

from hypothesis import strategies as st

from eef.trajectory import Author, SampledTokens, StateRef, Step, Trajectory, Usage

# any text a model can write, line separators and a lone surrogate included
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.just("\ud800"), max_size=12)
counts = st.integers(0, 10**6)
sampled = st.builds(
    SampledTokens, ids=st.lists(counts, max_size=3).map(tuple), vocabulary=st.just("0f")
)
steps = st.builds(
    Step,
    observation=texts,
    completion=texts,
    action=texts,
    reward=st.floats(0, 1, allow_nan=False),
    tokens=st.none() | sampled,
    cut=st.booleans(),
)
usages = st.builds(
    Usage,
    replayed_steps=counts,
    prompt_tokens=counts,
    cached_tokens=counts,
    generated_tokens=counts,
    drifted_turns=counts,
    seconds=st.floats(0, 1e6),
)


@st.composite
def trajectories(
    draw: st.DrawFn, trajectory_id: str = "a", start: StateRef | None = None
) -> Trajectory:
    status = draw(st.sampled_from(["terminated", "truncated", "error"]))
    return Trajectory(
        id=trajectory_id,
        task=draw(st.sampled_from(["toy/1", "toy/2"])),
        author=draw(st.sampled_from([Author("expert", "strong"), Author("student", "eef@round1")])),
        steps=tuple(draw(st.lists(steps, max_size=4))),
        final_observation=draw(texts),
        status=status,
        reward=None if status == "error" else draw(st.floats(0, 1)),
        success=draw(st.booleans()) and status != "error",
        start=start,
        round=draw(st.integers(0, 5)),
        seed=draw(st.integers(0, 2**31)),
        error=draw(st.none() | texts),
        usage=draw(usages),
    )


@st.composite
def families(draw: st.DrawFn) -> list[Trajectory]:
    """Trajectories in an order in which they can be stored, with branches of branches."""
    family: list[Trajectory] = []
    for number in range(draw(st.integers(0, 7))):
        start = None
        if family and draw(st.booleans()):
            origin = draw(st.sampled_from(family))
            start = StateRef(origin.id, draw(st.integers(0, origin.length)))
        family.append(draw(trajectories(f"t{number}", start)))
    return family
