"""A pretrained model, SmolLM2-135M-Instruct, through every part of the package."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from eef.errors import ModelError  # noqa: E402
from eef.models.checkpoint import merge_checkpoint, save_checkpoint  # noqa: E402
from eef.models.loading import load_model, load_tokenizer  # noqa: E402
from eef.models.settings import LoraSettings  # noqa: E402
from eef.pipeline.run_directory import RunDirectory  # noqa: E402
from eef.policies.local import LocalPolicy  # noqa: E402
from eef.policy import SampledText, Sampling  # noqa: E402
from eef.renderer import Renderer  # noqa: E402
from eef.training.settings import TrainSettings  # noqa: E402
from eef.training.sft import train_examples  # noqa: E402
from eef.trajectory import Author  # noqa: E402
from tests.fakes.hub import TOKEN, Hub  # noqa: E402
from tests.fakes.real import official_shop, smollm2  # noqa: E402
from tests.fakes.served import serving  # noqa: E402
from tests.fakes.small_run import eef, write_recipe  # noqa: E402

pytestmark = pytest.mark.real
AUTHOR = Author("student", "smollm2")
TALK = [
    {"role": "system", "content": "You are a shopper. Answer with one action."},
    {"role": "user", "content": "Page 1: [search] i need a long clip-in hair extension"},
    {"role": "assistant", "content": "Thought: I search.\nAction: search[hair extension]"},
    {"role": "user", "content": "Page 2: [B09C337K8S] [Buy Now] [< Prev]"},
    {"role": "assistant", "content": "Thought: It fits.\nAction: click[Buy Now]"},
]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHTS_REWRITTEN = (  # as Qwen3 does: thought blocks of earlier turns are dropped
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last and '</think>' in m['content'] %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def directory():
    return str(smollm2())


@pytest.fixture(scope="module")
def loaded(directory):
    torch.set_num_threads(1)
    return load_model(directory, device="cpu")


def text_of(rendered, tokenizer, wanted):
    kept = zip(rendered.ids, rendered.weights, strict=True)
    return tokenizer.decode([token for token, weight in kept if weight == wanted])


def test_prompts_are_those_of_the_models_own_template(directory):
    tokenizer = load_tokenizer(directory)
    renderer = Renderer(tokenizer)
    for start in (0, 1):  # without a system message, the template adds its own
        for end in (2, 4):
            talk = TALK[start:end]
            own = tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
            assert renderer.prompt(talk) == own
            text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
            assert tokenizer.decode(renderer.prompt(talk)) == text


def test_masks_follow_real_token_boundaries(directory):
    tokenizer = load_tokenizer(directory)
    rendered = Renderer(tokenizer).render(TALK, [0.0, 0.5])
    end = "<|im_end|>"
    assert text_of(rendered, tokenizer, 0.5) == TALK[4]["content"] + end
    for loss_on, expected in (("completion", TALK[4]["content"]), ("action", " click[Buy Now]")):
        rendered = Renderer(tokenizer, loss_on=loss_on).render(TALK, [0.0, 1.0])
        # the token ` click` has the space that precedes the action
        assert text_of(rendered, tokenizer, 1.0) == expected + end
        assert rendered.ids[-1] == tokenizer.convert_tokens_to_ids(end)
    for number in (2, 4):
        prompt = Renderer(tokenizer).prompt(TALK[:number])
        assert list(rendered.ids[: len(prompt)]) == prompt


def test_a_template_without_a_system_role_folds_it(directory):
    tokenizer = load_tokenizer(directory)
    tokenizer.chat_template = NO_SYSTEM
    renderer = Renderer(tokenizer)
    renderer.check("You are a shopper.")
    text = tokenizer.decode(renderer.prompt(TALK[:2]))
    assert text.startswith("<|im_start|>user\nYou are a shopper. Answer with one action.\n\nPage 1")


def test_a_template_that_rewrites_thoughts_keeps_what_the_model_acted_on(directory):
    tokenizer = load_tokenizer(directory)
    tokenizer.chat_template = THOUGHTS_REWRITTEN
    renderer = Renderer(tokenizer)
    renderer.check("You are a shopper.")
    thought = "<think>\nhm\n</think>\n\nAction: search[x]"
    talk = [*TALK[:2], {"role": "assistant", "content": thought}, TALK[3]]
    assert thought in tokenizer.decode(renderer.prompt(talk))
    tokenizer.chat_template = "{{ messages | length }} turns " + THOUGHTS_REWRITTEN
    with pytest.raises(ModelError, match="rewrites earlier messages") as caught:
        Renderer(tokenizer).check("You are a shopper.")
    assert "`chat.template_variables`" in caught.value.hint


def generate(model, tokenizer, renderer, talk, count):
    ids = torch.tensor([renderer.prompt(talk)])
    written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=sorted(renderer.stop_ids),
        pad_token_id=min(renderer.stop_ids),
    )[0, ids.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


def test_it_plays_greedily_as_generate_does(directory, loaded):
    reference, tokenizer = load_model(directory, device="cpu")
    renderer = Renderer(tokenizer)
    policy = LocalPolicy(*loaded, renderer, author=AUTHOR)
    greedy = Sampling(temperature=0.0, max_tokens=20)
    talks = [[TALK[0], {"role": "user", "content": f"Page {n}: {'[Buy] ' * n}"}] for n in range(4)]
    for _ in range(2):
        completions = policy.act(talks, range(4), greedy)
        assert [each.text for each in completions] == [
            generate(reference, tokenizer, renderer, talk, 20) for talk in talks
        ]
        talks = [
            [
                *talk,
                {"role": "assistant", "content": done.text},
                {"role": "user", "content": "Page: [Back] [Buy Now]"},
            ]
            for talk, done in zip(talks, completions, strict=True)
        ]


def test_drifted_turns_keep_their_ids(loaded):
    model, tokenizer = loaded
    renderer = Renderer(tokenizer)
    policy = LocalPolicy(model, tokenizer, renderer, author=AUTHOR)
    warm = Sampling(temperature=1.2, max_tokens=32)
    talks = [TALK[:2]] * 24
    completions = policy.act(talks, range(24), warm)
    drifted = [each for each in completions if each.tokens is not None]
    assert 0 < len(drifted) < 24
    for each in drifted:
        content = SampledText(each.text, each.tokens)
        talk = [*TALK[:2], {"role": "assistant", "content": content}, TALK[3]]
        ids = list(each.tokens.ids)
        if renderer._special & set(ids):
            continue
        prompt, start = renderer.prompt(talk), len(renderer.prompt(TALK[:2]))
        assert prompt[start : start + len(ids)] == ids


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=8, alpha=16.0)])
def test_it_is_trained_saved_reloaded_merged_and_pushed(directory, tmp_path, monkeypatch, lora):
    model, tokenizer = load_model(directory, device="cpu", lora=lora)
    rendered = Renderer(tokenizer).render(TALK, [0.5, 1.0])
    rate = 1e-4 if lora is None else 1e-3
    settings = TrainSettings(updates=4, batch_size=1, learning_rate=rate, threads=1)
    result = train_examples(model, [rendered], settings)
    assert result.losses[-1] < 0.8 * result.losses[0]
    save_checkpoint(model, tokenizer, tmp_path / "trained", base=directory)
    ids = torch.tensor([rendered.ids])
    with torch.inference_mode():
        expected = model.eval()(ids).logits
        reloaded, again = load_model(str(tmp_path / "trained"), device="cpu")
        assert torch.equal(reloaded(ids).logits, expected)
    assert Renderer(again).render(TALK, [0.5, 1.0]) == rendered
    if lora is None:
        return
    merge_checkpoint(tmp_path / "trained", tmp_path / "merged")
    with torch.inference_mode():
        merged = load_model(str(tmp_path / "merged"), device="cpu")[0](ids).logits
    assert torch.allclose(merged, expected, atol=1e-2)
    (tmp_path / "trained" / "README.md").write_text("# card\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub = Hub()
    with serving(hub) as (base, _):
        done = eef("model", "push", tmp_path / "trained", "me/shopper", "--endpoint", base)
    assert done.exit_code == 0, done.stderr
    assert "adapter_model.safetensors" in hub.files


def test_a_round_of_eef_in_the_official_shop(directory, tmp_path):
    recipe = {
        "name": "smollm2",
        "rounds": 1,
        "methods": ["eef"],
        "budget": {"rollouts": 2},
        "env": {"name": "webshop", "data": str(official_shop())},
        "expert": {"names": ["scripted/strong"]},
        "model": {"name": directory, "lora": {"rank": 4}},
        "tasks": {"train": 8, "test": 1, "seed": 0},
        "sampling": {"max_tokens": 16},
        "rollouts": {"batch_size": 4},
        "train": {"updates": 2, "batch_size": 1, "learning_rate": 1e-4, "threads": 1},
    }
    recipe["env"] |= {"goals": "synthetic", "products_per_page": 2, "step_limit": 8}
    recipe["rollouts"]["step_limit"] = 8
    path = write_recipe(tmp_path / "r.json", recipe)
    done = eef("run", path, "--out", tmp_path / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    run = RunDirectory.open(tmp_path / "run")
    assert all(run.is_done(stage) for stage in run.stages)
    played = [each for each in run.trajectories("eef") if each.by_student]
    assert len(played) == 2
    assert not any(each.status == "error" for each in played)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["methods"]) == {"expert", "bc", "eef"}
    rows = tmp_path / "rows"
    done = eef("export", tmp_path / "run", "--to", "trl", "--method", "eef", "--out", rows)
    assert done.exit_code == 0, done.stderr
