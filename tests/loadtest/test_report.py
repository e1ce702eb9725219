"""Tables, the Markdown section, the HTML page and the plot of results that are made up."""

import json
import re
from dataclasses import replace

import pytest

from csplade.loadtest import plot, report
from csplade.loadtest.profiles import Overload, Result, recovered
from csplade.loadtest.report import Circumstances

ABOUT = Circumstances(
    "csplade loadtest --profile step <&>",
    "2026-11-21T16:00+00:00",
    "a machine",
    "csplade 1",
    "q",
    {"k6": "v1"},
)


@pytest.fixture
def steps(step):
    return Result("step", 250.0, tuple(step(rate) for rate in (50, 100, 200)), knee=100)


@pytest.fixture
def overload(step):
    before, during = step(50), step(400)
    seconds = (during, during, before, during, before, before)
    by_second = tuple(one.phase.outcome for one in seconds)
    found = Overload(
        100,
        4,
        10,
        before.phase,
        during.phase,
        before.phase,
        by_second,
        recovered(by_second, 500, 250),
    )
    return Result("overload", 250.0, overload=found, failures=("something is odd",))


def test_the_step_table_marks_the_knee(steps):
    headings, rows = dict(report.tables(steps))["Rates"]
    assert [row[-1] for row in rows] == ["kept", "knee", "too high"]
    assert [row[headings.index("rejected")] for row in rows] == ["0", "0", "1000"]
    titles = [title for title, _ in report.tables(steps)]
    assert len(titles) == 3
    assert "from its answers" in titles[1]
    assert "Knee: 100/s" in report.summary(steps)[0]


def test_a_soak_that_passed_is_not_called_too_high(step):
    # The rate rises for 5 of 10 s: 750 of 1,000 requests are due, and all of them are answered.
    one = step(75)
    soak = Result("soak", 250.0, (replace(one, rate=100, ramp=5),))
    assert soak.steps[0].due == 749
    assert soak.steps[0].kept(250)
    _, rows = dict(report.tables(soak))["Rates"]
    assert [row[-1] for row in rows] == [""]
    assert report.summary(soak) == ["Passed: every bound is kept."]


def test_recovery_is_the_first_second_after_the_last_bad_one(overload):
    assert overload.overload.recovery == 4
    assert "recovered: second 4" in report.summary(overload)[0]
    assert report.summary(overload)[-1] == "FAILED: something is odd."
    by_second = overload.overload.by_second
    assert recovered(by_second[:2], 500, 250) is None
    assert recovered(by_second, 1000, 250) is None  # half of what was due was not even sent


@pytest.mark.parametrize("which", ["steps", "overload"])
def test_everything_is_written_and_the_page_needs_nothing_else(which, request, tmp_path):
    result = request.getfixturevalue(which)
    png = plot.png(result)
    assert png.startswith(b"\x89PNG")
    paths = report.write(tmp_path / "out", result, ABOUT, png)
    assert [path.name for path in paths] == ["result.json", "report.md", "report.html", "plot.png"]
    content = json.loads(paths[0].read_text())
    assert content["about"]["command"] == ABOUT.command
    assert content["profile"] == result.profile
    page = paths[2].read_text()
    assert "data:image/png;base64," in page
    assert "&lt;&amp;&gt;" in page
    assert not re.search(r"(src|href)=[\"']?(http|/)", page)
    assert "<script" not in page
    markdown = paths[1].read_text()
    assert f"`{ABOUT.command}`" in markdown
    rows = [line.count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) > 4


def test_the_same_result_gives_the_same_picture(steps):
    assert plot.png(steps) == plot.png(steps)
    assert plot.png(steps) != plot.png(replace(steps, knee=None))
