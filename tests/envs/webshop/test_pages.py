"""Every page of the shop in both textual forms, and the effect of each action on it."""

import pytest

from tests.fakes.small_shop import first_of, make_shop, write_shop

SOCKS = "B000000001"
BOTTOM = "Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def loaded(directory):
    return {
        "text": make_shop(directory, goals="human"),
        "text_rich": make_shop(directory, goals="human", observation="text_rich"),
    }


@pytest.fixture
def env(loaded):
    env = loaded["text"].clone()
    env.reset(0)
    return env


@pytest.fixture
def rich(loaded):
    env = loaded["text_rich"].clone()
    env.reset(0)
    return env


def play(env, *actions):
    """The last action's result."""
    return [env.step(action) for action in actions][-1]


def see(env, *actions):
    return play(env, *actions).observation


@pytest.fixture
def instruction(env):
    return env.task(0).instruction


def test_search_page(env, rich, instruction):
    assert env.reset(0) == f"WebShop [SEP] Instruction: [SEP] {instruction} [SEP] Search"
    assert rich.reset(0) == f"WebShop\nInstruction: \n{instruction}\n[button] Search [button_]\n"
    assert env.available() == {"has_search_bar": True, "clickables": ["search"]}


def test_results_page(env, rich, instruction):
    assert see(env, "search[merino]") == (
        f"Instruction: [SEP] {instruction} [SEP] Back to Search [SEP] Page 1 (Total results: 1) "
        f"[SEP] Next > [SEP] {SOCKS} [SEP] Merino Wool Socks [SEP] $12.5"
    )
    assert see(rich, "search[merino]") == (
        f"Instruction:\n{instruction}\n[button] Back to Search [button_]\n"
        "Page 1 (Total results: 1)\n"
        f"[button] Next > [button_]\n\n[button] {SOCKS} [button_]\nMerino Wool Socks\n$12.5\n"
    )
    assert env.available() == {
        "has_search_bar": False,
        "clickables": ["back to search", "next >", SOCKS.lower()],
    }


def test_item_page(env, rich, instruction):
    assert see(env, "search[merino]", f"click[{SOCKS}]") == (
        f"Instruction: [SEP] {instruction} [SEP] Back to Search [SEP] < Prev [SEP] color "
        '[SEP] dark blue [SEP] red [SEP] an "odd" one [SEP] size [SEP] s | m [SEP] l '
        f"[SEP] Merino Wool Socks [SEP] Price: $12.5 [SEP] {BOTTOM}"
    )
    assert see(rich, "search[merino]", f"click[{SOCKS}]").startswith(
        f"Instruction:\n{instruction}\n[button] Back to Search [button_]\n"
        "[button] < Prev [button_]\ncolor\n"
        "  [button] dark blue [button_]\n  [button] red [button_]\n"
    )
    assert env.available()["clickables"] == [
        "back to search", "< prev", "description", "features", "reviews", "buy now",
        "dark blue", "red", 'an "odd" one', "s | m", "l",
    ]  # fmt: skip


def test_text_rich_shows_choices_and_text_does_not(env, rich):
    before = see(env, "search[merino]", f"click[{SOCKS}]")
    assert see(env, "click[red]") == before
    play(rich, "search[merino]", f"click[{SOCKS}]", "click[red]")
    page = see(rich, "click[l]")
    assert page.startswith("You have clicked l.\nYou have clicked red.\nInstruction:\n")
    assert "  [clicked button] red [clicked button_]\n" in page
    assert "  [button] dark blue [button_]\n" in page


def test_a_value_with_a_quote_never_shows_as_clicked(rich):
    page = see(rich, "search[merino]", f"click[{SOCKS}]", 'click[an "odd" one]')
    assert "clicked" not in page
    assert rich.session.options == {"color": 'an "odd" one'}


def test_a_quoted_search_word_shows_as_clicked(rich):
    assert "You have clicked red." in see(rich, 'search["red" merino]', f"click[{SOCKS}]")


def test_another_value_of_an_option_replaces_the_first(env):
    play(env, "search[merino]", f"click[{SOCKS}]", "click[red]", "click[dark blue]", "click[L]")
    assert env.session.options == {"color": "dark blue", "size": "l"}


@pytest.mark.parametrize(
    ("button", "contents"),
    [
        ("description", " [SEP] Socks for cold feet.\nWash cold."),
        ("features", " [SEP] soft [SEP] warm & light"),
        ("reviews", ""),
    ],
)
def test_sub_pages(env, instruction, button, contents):
    play(env, "search[merino]", f"click[{SOCKS}]", "click[red]")
    assert see(env, f"click[{button}]") == (
        f"Instruction: [SEP] {instruction} [SEP] Back to Search [SEP] < Prev{contents}"
    )
    assert env.available()["clickables"] == ["back to search", "< prev"]
    assert env.session.actions == {"search": 1, "asin": 1, "options": 1, button.title(): 1}
    play(env, "click[< prev]")
    assert (env.session.view, env.session.options) == ("item", {"color": "red"})


def test_empty_texts(env, instruction):
    """An empty description is dropped; an empty bullet is kept, since it starts with a blank."""
    assert see(env, "search[hat]", "click[b000000004]", "click[description]").endswith(
        " [SEP] < Prev"
    )
    assert see(env, "click[< prev]", "click[features]").endswith(
        " [SEP] < Prev [SEP]  [SEP] knitted"
    )


def test_an_opened_product_is_marked_until_the_search_page(rich):
    play(rich, "search[socks]", f"click[{SOCKS}]")
    assert f"\n\n[clicked button] {SOCKS} [clicked button_]\n" in see(rich, "click[< prev]")
    assert "clicked" not in see(rich, "click[back to search]", "search[socks]")


def test_next_continues_after_the_last_page(env, instruction):
    play(env, "search[socks]")
    assert see(env, "click[next >]", "click[Next >]") == (
        f"Instruction: [SEP] {instruction} [SEP] Back to Search [SEP] Page 3 (Total results: 3) "
        "[SEP] "
        "< Prev [SEP] Next >"
    )
    assert env.session.page == 3
    assert env.session.actions == {"search": 3}
    assert "Page 2" in see(env, "click[< prev]")


def test_pages_of_two_products(directory):
    env = make_shop(directory, goals="human", products_per_page=2)
    env.reset(0)
    play(env, "search[socks]")
    assert len(env.available()["clickables"]) == 2 + 2
    assert len(see(env, "click[next >]").split(" [SEP] ")) == 6 + 3


def test_previous_from_an_item_drops_options_and_keeps_the_page(env):
    play(env, "search[socks]", f"click[{SOCKS}]", "click[red]", "click[< prev]")
    session = env.session
    assert (session.view, session.page, session.asin, session.options) == ("results", 1, None, {})
    assert session.asins == [SOCKS]


def test_back_to_search_keeps_only_the_goal(env, instruction):
    assert see(env, "search[socks]", f"click[{SOCKS}]", "click[Back to Search]") == env.reset(0)
    assert (env.session.keywords, env.session.asins, env.session.actions) == (None, [], {})


@pytest.mark.parametrize(
    "action",
    ["", "foo", "click[]", "search[]", "click[red]", "click[search]", " search[x]", "SEARCH[x]",
     "think[hmm]", "Action: search[x]", "search[shoes [red]]", "click[b000000001]",
     "Click[buy now]", "click[buy now]",
     "search[a\nb]"],
)  # fmt: skip
def test_invalid_actions_show_the_page_again(env, action):
    page, session = env.reset(0), env.session
    result = env.step(action)
    assert (result.observation, result.reward, result.terminated) == (page, 0.0, False)
    assert env.session is session


def test_search_works_on_every_page_and_ignores_trailing_text(env):
    play(env, "search[socks]", f"click[{SOCKS}]", "click[red]")
    assert "Page 1 (Total results: 1)" in see(env, "search[OAK] please")
    assert (env.session.keywords, env.session.asin, env.session.options) == (["oak"], None, {})


def test_search_for_a_blank_finds_nothing(env):
    assert "(Total results: 0) [SEP] Next >" in see(env, "search[ ]")


def test_buying_ends_with_the_done_page(env):
    play(env, "search[merino]", f"click[{SOCKS}]", "click[l]", "click[dark blue]")
    result = env.step("click[Buy Now]")
    assert result.observation.startswith(
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk "
        "interface.) [SEP] Purchased [SEP] asin [SEP] B000000001 [SEP] options [SEP] "
        '{"color": "dark blue", "size": "l"} [SEP] attrs'
    )
    assert result.observation.endswith("[SEP] 1.0 [SEP] Reward Details [SEP] None")
    assert (result.reward, result.terminated) == (1.0, True)
    assert env.available() == {"has_search_bar": False, "clickables": []}
    assert env.session.actions["purchase"] == 1


def test_after_buying_only_search_continues(env):
    play(env, "search[merino]", f"click[{SOCKS}]")
    done = env.step("click[buy now]").observation
    again = env.step("click[buy now]")
    assert (again.observation, again.reward, again.terminated) == (done, 0.0, False)
    assert "Page 1" in see(env, "search[hat]")


def test_values_are_escaped_on_the_done_page(directory, tmp_path):
    from tests.fakes.small_shop import ITEMS, choices

    odd = {**ITEMS[0], "customization_options": {"Color": choices("b<a & 'c'")}}
    env = make_shop(write_shop(tmp_path / "odd", items=[odd]), goals="human")
    env.reset(0)
    play(env, "search[merino]", f"click[{SOCKS}]")
    assert r'{"color": "b\u003ca \u0026 \u0027c\u0027"}' in see(
        env, "click[b<a & 'c']", "click[buy now]"
    )


def test_undocumented_searches_of_the_original(env, directory):
    assert "(Total results: 3)" in see(env, "search[<q> wool socks]")
    assert "(Total results: 1)" in see(env, "search[<c> garden]")
    assert "(Total results: 0)" in see(env, "search[<c>]")
    plain = make_shop(directory, goals="human", compat=False)
    plain.reset(0)
    assert "(Total results: 0)" in see(plain, "search[<c> garden]")


def test_a_category_search_ignores_surrounding_blanks(env):
    assert "(Total results: 1)" in see(env, "search[<c> \tgarden\t socks]")
    assert "(Total results: 3)" in see(env, "search[<q>  wool socks ]")


def test_invalid_actions_are_explained_on_request(directory):
    plain, rich = (
        make_shop(directory, goals="human", explain_invalid=True, observation=mode)
        for mode in ("text", "text_rich")
    )
    page = plain.reset(0)
    assert see(plain, "click[red]") == (
        "Nothing happened: 'red' cannot be clicked here. What can be: nothing. "
        f"Search with search[words]. [SEP] {page}"
    )
    assert see(plain, "buy it") == (
        "Nothing happened: 'buy it' is no action. Actions are search[words] and click[label]. "
        f"[SEP] {page}"
    )
    assert len(see(plain, "x" * 100_000)) < len(page) + 300
    page = rich.reset(0)
    assert see(rich, "click[search]").endswith(f"be: nothing. Search with search[words].\n{page}")
    assert "What can be: nothing." in see(
        plain, "search[merino]", f"click[{SOCKS}]", "click[buy now]", "click[red]"
    )
    assert "Nothing" not in see(plain, "search[merino]")


def test_next_ends_with_the_results_on_request(directory):
    env = make_shop(directory, goals="human", endless_next=False, products_per_page=2)
    env.reset(0)
    assert "Next >" in see(env, "search[socks]")
    last = see(env, "click[next >]")
    assert "Page 2" in last
    assert "Next >" not in last
    assert see(env, "click[next >]") == last
    assert "Next >" not in see(env, "search[merino]")
    assert "Next >" not in see(env, "search[ ]")


@pytest.mark.parametrize(
    ("title", "segment", "line"),
    [("", None, None), (" \t", "", " "), (" \n ", None, None), ("\u00a0", "", "\u00a0"),
     ("\u00a0\n", "", "\u00a0\n"),
     (" a ", "a", " a ")],
)  # fmt: skip
def test_texts_of_only_blanks(tmp_path, title, segment, line):
    """ASCII blanks collapse to one, or vanish with a line break; others are kept."""
    from tests.fakes.small_shop import ITEMS

    odd = write_shop(tmp_path, items=[{**ITEMS[0], "name": title, "full_description": "merino"}])
    pages = []
    for mode in ("text", "text_rich"):
        env = make_shop(odd, goals="human", observation=mode)
        env.reset(0)
        pages.append(see(env, "search[merino]"))
    assert pages[0].endswith(f"{SOCKS} [SEP] {'' if segment is None else f'{segment} [SEP] '}$12.5")
    assert pages[1].endswith(
        f"[button] {SOCKS} [button_]\n{'' if line is None else f'{line}{chr(10)}'}$12.5\n"
    )


def test_option_values_named_like_navigation_buttons(tmp_path):
    """On an item page, the option value `next >` is chosen; `buy now` buys."""
    from tests.fakes.small_shop import ITEMS, choices

    odd = {
        **ITEMS[0],
        "customization_options": {"Style": choices("Next >", "search", "", "Buy Now")},
    }
    env = make_shop(write_shop(tmp_path, items=[odd]), goals="human")
    env.reset(0)
    play(env, "search[merino]", f"click[{SOCKS}]", "click[next >]", "click[search]", "click[]")
    assert env.session.options == {"style": "next >"}
    assert env.available()["clickables"][-3:] == ["next >", "search", ""]
    assert play(env, "click[buy now]").terminated


def test_of_two_equal_option_values_the_later_counts(tmp_path):
    from tests.fakes.small_shop import ITEMS, choices

    odd = {
        **ITEMS[0],
        "customization_options": {"Color": choices("One", "two"), "Size": choices("one")},
    }
    env = make_shop(write_shop(tmp_path, items=[odd]), goals="human")
    env.reset(0)
    play(env, "search[merino]", f"click[{SOCKS}]", "click[one]")
    assert env.session.options == {"size": "one"}
    assert env.available()["clickables"][-2:] == ["one", "two"]


def test_a_second_purchase_after_the_end_counts(env):
    """As in the original, a search after buying continues the episode."""
    play(env, "search[merino]", f"click[{SOCKS}]", "click[buy now]")
    again = play(env, "search[hat]", "click[b000000004]", "click[buy now]")
    assert again.terminated
    assert env.session.actions["purchase"] == 2


def test_attributes_page(directory):
    env = make_shop(directory, goals="human", attributes_page=True)
    env.reset(0)
    assert see(env, "search[merino]", f"click[{SOCKS}]").endswith(
        "[SEP] Reviews [SEP] Attributes [SEP] Buy Now"
    )
    assert see(env, "click[attributes]").endswith(
        "< Prev [SEP] machine wash [SEP] merino wool [SEP] fashion [SEP] wool socks [SEP] "
        "Clothing › Women › Socks"
    )


def test_both_ends_of_a_price_range_are_shown(env):
    assert "B000000002 [SEP] Cotton Socks [SEP] $5.0 to $9.5" in see(env, "search[cotton]")
    assert "Oak Table [SEP] $100.0" in see(env, "search[oak]")


def test_an_option_named_like_a_button(tmp_path):
    """Only the label counts, as in the original: the option opens the page of that name."""
    from tests.fakes.small_shop import ITEMS, choices

    odd = {**ITEMS[0], "customization_options": {"Style": choices("Features", "plain")}}
    env = make_shop(write_shop(tmp_path, items=[odd]), goals="human")
    env.reset(0)
    play(env, "search[merino]", f"click[{SOCKS}]")
    assert env.available()["clickables"].count("features") == 1
    play(env, "click[features]")
    assert (env.session.view, env.session.options) == ("features", {})


def test_goal_of_a_product(env):
    assert env.shop.goals[first_of(env, SOCKS)].asin == SOCKS
