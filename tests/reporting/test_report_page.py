"""The page as a reader and a browser meet it: whole, self-contained, safe, true to the decision."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from vnfleet.releases.plan_policy import plan_policy_report
from vnfleet.releases.verdict import Check
from vnfleet.reporting.report import ReportInputs, render_report, write_report

PLAN_NUMBERS = ("accuracy_frac", "sharpe", "max_drawdown_frac", "rmse")
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags close in order; collects ids, links and the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src"}:
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "circle", "rect"} or self.open[-1] == tag:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


def test_one_file_below_400_kb_that_loads_nothing(inputs: ReportInputs, tmp_path: Path) -> None:
    path = write_report(tmp_path / "reports" / "2026-W47.html", inputs)
    page = path.read_text(encoding="utf-8")
    outline = read(page)
    assert path.stat().st_size < 400_000
    assert not re.search(r"https?://|@import|url\(|<link|<img|\bsrc=|\bfetch\(", page)
    assert all(link.startswith("#") for link in outline.links)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert [item.name for item in path.parent.iterdir()] == ["2026-W47.html"]


def test_equal_inputs_give_equal_text(inputs: ReportInputs) -> None:
    assert render_report(inputs) == render_report(inputs)


def test_vietnamese_text_is_unharmed(inputs: ReportInputs) -> None:
    text = read(render_report(inputs)).text
    assert "Công ty Cổ phần Đường Quảng Ngãi" in text
    assert "Năng lượng & điện" in text


def test_absolute_accuracy_stands_next_to_its_base_rate_and_the_plans_marks(inputs: ReportInputs) -> None:
    text = read(render_report(inputs)).text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    tile = text[text.index("Absolute accuracy 53.2 %") :][:400]
    assert "95 % interval 52.0 to 54.4 %" in tile
    assert "Always saying “down” reaches 52.8 %" in tile  # 1 - 0.472
    assert "plan 54 %" in tile
    assert "plan 55 %" in tile


def test_shares_that_pass_the_plan_stand_next_to_luck(inputs: ReportInputs) -> None:
    text = read(render_report(inputs)).text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    passing = inputs.decision.plan.criteria[0].num_passing
    assert f"Accuracy above 52 % {passing} of 102 {100 * passing / 102:.0f} % 35.3 %" in text
    assert "Accuracy, Sharpe and drawdown together" in text


def test_models_the_plan_could_not_judge_are_counted_above_its_limits(inputs: ReportInputs) -> None:
    def page(num_unknown: int, *columns: str) -> str:
        number = pl.int_range(pl.len())
        known = {name: pl.when(number >= num_unknown).then(0.5).otherwise(None) for name in columns}
        numbers = pl.DataFrame(
            {"symbol": [f"S{place:02d}" for place in range(60)], **dict.fromkeys(PLAN_NUMBERS, 0.5)}
        ).with_columns(**known)
        decision = inputs.decision.model_copy(update={"plan": plan_policy_report(numbers)})
        return read(render_report(replace(inputs, decision=decision))).text

    assert "not judged." not in page(0)
    assert "Share of 60 models judged that pass each limit" in page(0)
    some = page(5, *PLAN_NUMBERS)
    assert "of 55" in some
    assert "Share of the models judged that pass each limit" in some
    assert "(black tick). 5 of 60 were not judged. Shown, never deciding." in some
    assert "(black tick). Up to 5 of 60 were not judged. Shown" in page(5, "sharpe")
    assert "(black tick). 1 of 60 was not judged. Shown" in page(1, *PLAN_NUMBERS)


def test_models_stand_in_order_of_rank_ic_with_their_years_below(inputs: ReportInputs) -> None:
    text = read(render_report(inputs)).text
    race = text[text.index("The race against") : text.index("What an account")]
    names = [
        "Stockformer, adapted per symbol",
        "Stockformer, pooled",
        "LightGBM",
        "Ridge",
        "1-day reversal",
        "Always up",
    ]
    places = [race.index(name) for name in names]
    assert places == sorted(places)
    assert race.count(" 2022 ") == len(names)
    assert "+0.108 0.096 to 0.120" in race


@pytest.mark.parametrize(
    ("outcome", "baseline", "deployed", "css", "words"),
    [
        ("deploy", False, "r2", "deployed", "Deployed"),
        ("deploy", True, "r2", "baseline", "A baseline serves"),
        ("keep", False, "r1", "kept", "The old set stays"),
        ("undecided", False, "r1", "undecided", "Undecided, the old set stays"),
        ("keep", False, None, "nothing", "Nothing serves"),
    ],
)
def test_the_top_shows_the_state_of_the_decision(
    inputs: ReportInputs, outcome: str, baseline: bool, deployed: str | None, css: str, words: str
) -> None:
    decision = inputs.decision.model_copy(update={"outcome": outcome, "serves_baseline": baseline})
    page = render_report(replace(inputs, decision=decision, deployed_release_id=deployed, previous_release_id="r1"))
    assert f'class="verdict {css}"' in page
    assert words in read(page).text


def test_every_check_is_shown_with_its_answer(inputs: ReportInputs) -> None:
    checks = (
        Check(name="a", passed=True, words="First question."),
        Check(name="b", passed=False, words="Second question."),
        Check(name="c", passed=None, words="Third question."),
    )
    page = render_report(replace(inputs, decision=inputs.decision.model_copy(update={"checks": checks})))
    assert re.search(r'aria-label="yes">✓</span><span class="said">First', page)
    assert re.search(r'aria-label="no">✕</span><span class="said">Second', page)
    assert re.search(r'aria-label="not judged">○</span><span class="said">Third', page)


def test_hostile_text_stays_text(inputs: ReportInputs) -> None:
    evil = '"><script>alert(1)</script>'
    page = render_report(
        replace(
            inputs,
            changes=(evil,),
            warnings=(evil,),
            workdir_name=evil,
            deployed_release_id=evil,
            decision=inputs.decision.model_copy(update={"sentence": evil}),
            equity=inputs.equity.with_columns(series=pl.lit(evil)),
            per_symbol=inputs.per_symbol.with_columns(company=pl.lit(evil), serving=pl.lit(evil)),
            quality_rows=inputs.quality_rows.with_columns(example=pl.lit(evil)),
            model_names=tuple((model_id, evil) for model_id, _ in inputs.model_names),
        )
    )
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    read(page)


def test_a_simulated_market_is_called_simulated(inputs: ReportInputs) -> None:
    assert "Simulated market." not in read(render_report(inputs)).text
    assert "Simulated market." in read(render_report(replace(inputs, market_is_simulated=True))).text


def test_an_empty_first_week_still_makes_a_page(inputs: ReportInputs) -> None:
    empty = replace(
        inputs,
        decision=inputs.decision.model_copy(update={"checks": (), "plan": plan_policy_report(), "outcome": "keep"}),
        previous_release_id=None,
        deployed_release_id=None,
        changes=(),
        warnings=(),
        summary=inputs.summary.clear(),
        monthly_ic=inputs.monthly_ic.clear(),
        per_symbol=inputs.per_symbol.clear(),
        equity=inputs.equity.clear(),
        sim_metrics=inputs.sim_metrics.clear(),
        refused_orders=inputs.refused_orders.clear(),
        quality_rows=inputs.quality_rows.clear(),
        quality_symbols=inputs.quality_symbols.clear(),
        steps=inputs.steps.clear(),
    )
    text = read(render_report(empty)).text
    assert "Nothing serves" in text
    assert "No model has been scored yet." in text
    assert "first week" in text


def test_unknown_values_are_dashes_not_nan(inputs: ReportInputs) -> None:
    text = read(render_report(inputs)).text
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", text)


def test_reused_steps_are_named_and_not_counted_as_work(inputs: ReportInputs) -> None:
    text = read(render_report(inputs)).text
    # 3.2 + 21 + 1843 + 24 + 18.5 + 2.2 + 1.1 + 0.4 = 1913.4 s, and 1925.8 s with the 12.4 s of the reused step
    assert "31 min 53 s this time, 32 min 06 s had nothing been there already." in text
    assert "collect 12.4 s reused" in text


def test_refused_orders_are_in_words_and_only_those_that_happened(inputs: ReportInputs) -> None:
    refused = pl.DataFrame({"reason": ["absent", "cash", "locked_ceiling"], "count": [2, 0, 9]})
    text = read(render_report(replace(inputs, refused_orders=refused))).text
    assert "buying at the ceiling: nobody sells 9 no trade in it that session 2" in text
    assert "not enough cash" not in text


def test_a_frame_without_its_columns_is_refused_by_name(inputs: ReportInputs) -> None:
    with pytest.raises(ValueError, match=r"equity frame lacks \['equity_vnd'\]"):
        replace(inputs, equity=inputs.equity.drop("equity_vnd"))


def test_a_time_without_zone_is_refused(inputs: ReportInputs) -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(inputs, created_at=datetime(2026, 11, 22, 12))  # noqa: DTZ001 - the mistake under test


def test_drawdown_is_measured_from_the_highest_value_so_far(inputs: ReportInputs) -> None:
    days = [datetime(2024, month, 1).date() for month in (1, 2, 3, 4)]  # noqa: DTZ001
    curve = pl.DataFrame({"series": "A", "session": days, "equity_vnd": [100.0, 120.0, 90.0, 150.0]})
    page = render_report(replace(inputs, equity=curve)).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "<title>2024-03\nA: −25 %</title>" in page  # 90 / 120 - 1
    assert "<title>2024-04\nA: 150</title>" in page


def test_accounts_are_compared_with_equal_weight_and_the_index_under_names_people_know(inputs: ReportInputs) -> None:
    names = {"Deployed models": "adapted", "Best baseline": "lightgbm", "Equal weight": "equal weight"}
    order = {"adapted": 0, "lightgbm": 1, "equal weight": 2, "VNINDEX": 3}

    def as_the_cycle_hands_over(frame: pl.DataFrame) -> pl.DataFrame:
        named = frame.with_columns(pl.col("series").replace(names))
        return named.sort(pl.col("series").replace_strict(order, return_dtype=pl.Int32), maintain_order=True)

    week = replace(
        inputs,
        equity=as_the_cycle_hands_over(inputs.equity),
        sim_metrics=as_the_cycle_hands_over(inputs.sim_metrics),
    )
    text = read(render_report(week)).text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "Adapted models, a year +21.4 % Equal weight +10.1 % · VNINDEX +5.5 %" in text
    assert text.index("Adapted models +161.0 %") < text.index("Equal weight +62.0 %") < text.index("LightGBM +102.0 %")
