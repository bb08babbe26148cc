"""The proof on the page: skill or luck, where it works, how sure it is, leaks, costs; absent where there is none."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from vnfleet.releases.plan_policy import NullShares, plan_policy_report
from vnfleet.reporting import proof_tables, proof_views
from vnfleet.reporting.report import ReportInputs, render_report, write_report

SECTIONS = ("skill", "where", "sure", "costs", "leaks")


def words_of(page: str) -> str:
    """The page without its styles, scripts, tags and thin spaces."""
    bare = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(bare).replace("\N{NARROW NO-BREAK SPACE}", " ").split())


def section(page: str, name: str) -> str:
    start = page.index(f'<section id="{name}">')
    return page[start : page.index("</section>", start)]


def test_a_week_without_the_proof_has_none_of_its_sections(inputs: ReportInputs) -> None:
    page = render_report(inputs)
    for name in SECTIONS:
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
    text = words_of(page)
    assert "Good to know" not in text
    assert "Vetoed:" not in text
    assert "Shrunk" not in text[text.index("Every symbol") : text.index("Data quality")]


def test_with_the_proof_it_is_still_one_file_below_400_kb_that_loads_nothing(
    proven: ReportInputs, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "full.html", proven)
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 400_000
    assert not re.search(r"https?://|@import|url\(|<link|<img|\bsrc=|\bfetch\(", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert set(SECTIONS) <= set(ids)
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", words_of(page))


def test_tests_of_skill_stand_beside_how_much_was_tried(proven: ReportInputs) -> None:
    text = words_of(section(render_report(proven), "skill"))
    assert all(line in text for line in proven.proof_lines)
    assert "<b>up or down:</b> right in 53.2 %" in render_report(proven)
    # the mean of the largest of 40 standard normals is 2.161 (tables of order statistics)
    assert "Variants tried on these data 40 By luck alone the best of 40 worthless variants looks 2.2" in text


@pytest.mark.parametrize(("trials", "shown"), [(None, ""), (1, "1")])
def test_without_a_search_nothing_is_said_about_its_luck(proven: ReportInputs, trials: int | None, shown: str) -> None:
    text = words_of(section(render_report(replace(proven, num_trials=trials)), "skill"))
    assert ("Variants tried" in text) == bool(shown)
    assert "worthless" not in text


def test_skill_by_part_counts_what_lies_beyond_chance(proven: ReportInputs) -> None:
    parts = proven.scorecard.filter(
        pl.col("model_id") == "adapted", pl.col("metric") == "rank_ic", pl.col("group_kind") != "all"
    )
    above, below = parts.filter(pl.col("low") > 0).height, parts.filter(pl.col("high") < 0).height
    where = proof_views.where(proven)
    assert where is not None
    assert where.summary.startswith(f"{parts.height} parts: {above} above chance")
    assert f"{below} below, {parts.height - above - below} not told apart" in where.summary
    filled = {side: where.chart.narrow.count(f'class="iv {side}"') for side in ("above", "below", "unsure")}
    relative = proven.scorecard.filter(pl.col("model_id") == "adapted", pl.col("metric") == "accuracy_relative")
    assert filled["above"] == above + 1 + relative.filter(pl.col("low") > 0.5).height  # 1: everything together
    assert sum(filled.values()) == 2 * (parts.height + 1)


def test_parts_stand_in_an_order_people_expect(proven: ReportInputs) -> None:
    where = proof_views.where(proven)
    assert where is not None
    wide = words_of(where.chart.wide)
    names = ["Everything", "By year", "2020", "2024", "By how much is traded", "Most traded", "Middle", "Least traded"]
    places = [wide.index(name) for name in (*names, "By sector")]
    assert places == sorted(places)
    sectors = proven.scorecard.filter(
        pl.col("model_id") == "adapted", pl.col("metric") == "rank_ic", pl.col("group_kind") == "sector"
    ).sort("value", descending=True)
    tail = wide[wide.index("By sector") :]
    places = [tail.index(name) for name in sectors.get_column("group")]
    assert places == sorted(places)
    assert "Tài chính, 20 symbols" in where.chart.wide


def test_other_models_and_horizons_are_not_mixed_in(proven: ReportInputs) -> None:
    other = proven.scorecard.filter(pl.col("model_id") == "adapted").with_columns(
        horizon_sessions=pl.lit(1, pl.Int32), value=pl.lit(0.9), low=pl.lit(0.8), high=pl.lit(0.95)
    )
    alone = proven.scorecard.filter(pl.col("model_id") == "adapted")
    mixed = replace(proven, scorecard=pl.concat([other, proven.scorecard, other]))
    assert proof_views.where(mixed) == proof_views.where(replace(proven, scorecard=alone))


def test_a_model_without_a_ranking_is_shown_by_what_it_has(proven: ReportInputs) -> None:
    nothing = pl.when(pl.col("metric") == "rank_ic").then(None)
    bare = proven.scorecard.with_columns(
        value=nothing.otherwise("value"), low=nothing.otherwise("low"), high=nothing.otherwise("high")
    )
    where = proof_views.where(replace(proven, scorecard=bare))
    assert where is not None
    assert "Rank IC" not in where.chart.wide
    assert "Market-relative accuracy" in where.chart.wide


def test_brier_and_ranges_stand_beside_what_they_should_be(proven: ReportInputs) -> None:
    text = words_of(section(render_report(proven), "sure"))
    assert "Brier skill +0.44 % 95 % interval 0.12 to 0.76 %" in text
    assert "Brier score 0.2481, of the base rate 0.2492" in text  # 0.2481 / (1 - 0.0044)
    assert "Inside the 68 % range 71.2 % 95 % interval 69.4 to 73.0 %" in text
    at_95 = text.index("Inside the 95 % range")
    assert "More than there should be: it states too much risk." in text[:at_95]  # 69.4 % > 68.3 %
    assert "As it should be, as far as these sessions tell." in text[at_95:]  # 95 % within 93.5 to 95.3 %


def test_too_little_stated_risk_is_said(proven: ReportInputs) -> None:
    low = proven.scorecard.with_columns(high=pl.min_horizontal("high", pl.lit(0.6)))
    assert "it states too little risk" in words_of(section(render_report(replace(proven, scorecard=low)), "sure"))


def test_the_surest_calls_are_compared_with_a_coin_and_with_the_base_rate(proven: ReportInputs) -> None:
    text = words_of(section(render_report(proven), "sure"))
    assert "Market-relative accuracy (line: coin)" in text
    assert "Absolute accuracy (line: always down)" in text  # 47.2 % went up
    assert "no skill: 52.8 %" in text
    assert "Surest 5 % 6,300 calls" in text
    places = [text.index(words) for words in ("All calls", "Surest 50 %", "Surest 20 %", "Surest 10 %", "Surest 5 %")]
    assert places == sorted(places)


def test_a_model_without_probabilities_has_no_diagram(proven: ReportInputs) -> None:
    page = render_report(replace(proven, reliability=proven.reliability.clear()))
    assert "Does it happen as often as it says?" not in page
    assert "Are its surest calls better?" in page


@pytest.mark.parametrize(
    ("passed", "blocks", "answer", "title"),
    [
        (True, True, "✓ yes", "Nothing leaked"),
        (False, True, "✕ NO", "Something leaked"),
        (False, False, "! warning", "Whether anything leaked"),
        (None, True, "○ not judged", "Whether anything leaked"),
    ],
)
def test_every_leak_check_has_its_answer(
    proven: ReportInputs, passed: bool | None, blocks: bool, answer: str, title: str
) -> None:
    checks = pl.DataFrame(
        {"name": ["future_poison:features"], "passed": [passed], "blocks": [blocks], "words": ["what was found."]},
        schema_overrides={"passed": pl.Boolean},
    )
    text = words_of(section(render_report(replace(proven, leak_checks=checks)), "leaks"))
    assert text.startswith(title)
    assert f"Wild later prices change nothing: features {answer} what was found." in text


def test_a_leak_is_on_top_and_said_to_stop_the_set(proven: ReportInputs) -> None:
    leaky = proven.leak_checks.with_columns(
        passed=pl.when(pl.col("name") == "shuffled_labels:ridge").then(statement=False).otherwise("passed")
    )
    leaks = proof_tables.leaks(replace(proven, leak_checks=leaky))
    assert leaks is not None
    assert [row.name for row in leaks.rows][:3] == [
        "Shuffled labels teach nothing: Ridge",
        "Not too far above LightGBM: Stockformer, adapted per symbol",
        "Scaling was learned from training rows only",
    ]
    assert leaks.summary == (
        "1 found a leak: this set must not go live; 2 of 5 checks found nothing; "
        "1 gave a warning, which does not block; 1 had nothing to judge."
    )


def test_bars_run_from_the_ideal_account_to_the_real_one(proven: ReportInputs) -> None:
    steps = pl.DataFrame(
        {
            "step": ["ideal", "fees", "limits", "tax"],
            "words": ["no rules", "fees", "price limits", "tax"],
            "annual_return_frac": [0.4, 0.3, None, -0.1],
            "sharpe_252": [1.5, 1.2, None, -0.3],
        }
    )
    costs = proof_tables.costs(replace(proven, waterfall=steps))
    assert costs is not None
    # from -10 % to 40 %: zero lies at 20 % of the width, one tenth is 20 % wide
    assert costs.zero == 20
    assert [(row.css, row.left, row.width) for row in costs.rows] == [
        ("total", 20, 80),
        ("loss", 80, 20),
        ("total", None, 0),
        ("loss", 0, 80),
        ("total", 0, 20),
    ]
    changes = [row.change_frac for row in costs.rows]
    assert changes == [None, pytest.approx(-0.1), None, pytest.approx(-0.4), None]
    assert "would have made +40.0\N{NARROW NO-BREAK SPACE}% a year" in costs.summary
    assert "The dearest step: tax (−40.0\N{NARROW NO-BREAK SPACE}%)." in costs.summary


def test_costs_of_a_week_without_an_account_are_left_out(proven: ReportInputs) -> None:
    unknown = proven.waterfall.with_columns(annual_return_frac=pl.lit(None, pl.Float64))
    assert 'id="costs"' not in render_report(replace(proven, waterfall=unknown))


def test_symbols_show_their_shrunk_accuracy_and_who_shows_skill_alone(proven: ReportInputs) -> None:
    text = words_of(section(render_report(proven), "per-symbol"))
    own = proven.symbols_shrunk.row(0, named=True)
    shrunk = own["accuracy_shrunk"]
    low, high = shrunk - 1.96 * 0.011, shrunk + 1.96 * 0.011
    row = f"{100 * own['accuracy_relative']:.1f} % {100 * shrunk:.1f} % {100 * low:.1f} to {100 * high:.1f} %"
    assert row in text
    found = proven.symbols_shrunk.filter("discovered").get_column("symbol").sort().to_list()
    assert f"{len(found)} of 102 symbols show skill on their own: {', '.join(found)}." in text


def test_symbols_of_another_model_say_nothing_about_the_serving_one(proven: ReportInputs) -> None:
    other = proven.symbols_shrunk.with_columns(model_id=pl.lit("pooled"))
    text = words_of(section(render_report(replace(proven, symbols_shrunk=other)), "per-symbol"))
    assert "Shrunk" not in text
    assert "skill on their own" not in text


def test_long_lists_of_symbols_are_cut(proven: ReportInputs) -> None:
    everyone = proven.symbols_shrunk.with_columns(discovered=pl.lit(value=True))
    _, words = proof_views.symbol_table(replace(proven, symbols_shrunk=everyone))
    assert words.endswith(" and 90 more.")


def test_the_gate_tells_what_it_tells_and_whom_it_vetoed(proven: ReportInputs) -> None:
    text = words_of(section(render_report(proven), "gate"))
    assert all(line in text for line in proven.decision.told)
    assert "the pooled model serves 2 symbols instead of their own BAG, HAT" in text


def test_when_the_plan_decides_the_page_says_so(proven: ReportInputs) -> None:
    shown = words_of(render_report(proven))
    assert "shown, not deciding." in shown
    assert "Shown, never deciding." in shown
    null = NullShares(0.31, 0.2, 0.04, 0.9, 0.12, 0.011, 0.007, 2040)
    plan = plan_policy_report(None, null=null).model_copy(update={"num_models": 102, "mean_accuracy_frac": 0.531})
    decision = proven.decision.model_copy(update={"gate_policy": "plan", "plan": plan})
    text = words_of(render_report(replace(proven, decision=decision)))
    assert "they decided this week, because the policy is “plan”" in text
    assert "Under the policy “plan” these limits decide." in text
    assert "Decided by the written plan's limits, model by model" in text
    assert "never deciding" not in text
    assert "luck: 2,040 models with shuffled forecasts on the same days" in text
    assert "All four together – 0.7 %" in text


def test_the_accounts_capacity_is_shown_where_it_is_known(proven: ReportInputs) -> None:
    text = words_of(section(render_report(proven), "money"))
    assert "Deployed models +161.0 % +21.4 % 23.1 % 0.93 28.4 % 21.4 x 48.3 bn VND" in text
    assert "24.0 x 290 m VND" in text


def test_hostile_text_in_the_proof_stays_text(proven: ReportInputs) -> None:
    evil = '"><script>alert(1)</script>'
    decision = proven.decision.model_copy(update={"told": (evil,), "vetoed": (evil,)})
    page = render_report(
        replace(
            proven,
            decision=decision,
            proof_lines=(evil,),
            scorecard=proven.scorecard.with_columns(group=pl.lit(evil)),
            leak_checks=proven.leak_checks.with_columns(name=pl.lit(evil), words=pl.lit(evil)),
            waterfall=proven.waterfall.with_columns(words=pl.lit(evil)),
            symbols_shrunk=proven.symbols_shrunk.with_columns(symbol=pl.lit(evil)),
        )
    )
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_unknown_intervals_leave_dots_without_them(proven: ReportInputs) -> None:
    def without(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))

    page = render_report(
        replace(
            proven,
            scorecard=without(proven.scorecard),
            reliability=without(proven.reliability),
            selective=without(proven.selective),
            symbols_shrunk=proven.symbols_shrunk.with_columns(shrunk_sd=pl.lit(None, pl.Float64)),
        )
    )
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", words_of(page))
    assert 'class="iv above"' not in page
    assert "Too few sessions for an interval." in section(page, "sure")


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("scorecard", lambda week: replace(week, scorecard=week.scorecard.drop("metric"))),
        ("reliability", lambda week: replace(week, reliability=week.reliability.drop("bin"))),
        ("selective", lambda week: replace(week, selective=week.selective.drop("kind"))),
        ("symbols_shrunk", lambda week: replace(week, symbols_shrunk=week.symbols_shrunk.drop("shrunk_sd"))),
        ("leak_checks", lambda week: replace(week, leak_checks=week.leak_checks.drop("blocks"))),
        ("waterfall", lambda week: replace(week, waterfall=week.waterfall.drop("words"))),
    ],
)
def test_a_frame_of_the_proof_without_its_columns_is_refused_by_name(
    proven: ReportInputs, name: str, without: Callable[[ReportInputs], ReportInputs]
) -> None:
    with pytest.raises(ValueError, match=f"{name} frame lacks"):
        without(proven)


def test_a_check_nobody_has_words_for_is_shown_by_its_name(proven: ReportInputs) -> None:
    checks = proven.leak_checks.head(1).with_columns(name=pl.lit("new_idea"))
    leaks = proof_tables.leaks(replace(proven, leak_checks=checks))
    assert leaks is not None
    assert leaks.rows[0].name == "new idea"


def test_symbols_too_short_to_judge_are_not_counted(proven: ReportInputs) -> None:
    short = pl.col("symbol").is_in(proven.symbols_shrunk.get_column("symbol").head(40).to_list())
    some = proven.symbols_shrunk.with_columns(accuracy_shrunk=pl.when(~short).then("accuracy_shrunk"))
    _, words = proof_views.symbol_table(replace(proven, symbols_shrunk=some))
    assert "of 62 symbols" in words


@pytest.mark.parametrize("kind", ["refresh", "recipe", "first"])
def test_whatever_the_decision_is_about_the_policy_plan_is_named(proven: ReportInputs, kind: str) -> None:
    decision = proven.decision.model_copy(update={"gate_policy": "plan", "kind": kind})
    gate = words_of(section(render_report(replace(proven, decision=decision)), "gate"))
    assert "because the policy is “plan”" in gate
    assert "safety check" not in gate
    fleet = decision.model_copy(update={"gate_policy": "fleet"})
    gate = words_of(section(render_report(replace(proven, decision=fleet)), "gate"))
    assert ("safety check" in gate) == (kind == "refresh")
