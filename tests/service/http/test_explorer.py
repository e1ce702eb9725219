"""The explorer in a real browser: every view with real data, hostile documents, failures."""

import os
from pathlib import Path

import pytest

from csplade.core.document import Document
from csplade.index import BuildOptions, IndexBuilder

from ..browser import Page
from ..caller import call

WIDTHS = [320, 1400]
VIEWS = ["search", "compare", "encode", "upload", "about"]
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"


def explorer(browser, server):
    """The explorer of a server."""
    return Page(browser, f"http://{server.http_address}/explore")


@pytest.fixture
def page(browser, text_server):
    page = explorer(browser, text_server)
    page.dark(False)
    page.resize(1400)
    return page


@pytest.fixture
def uploading(browser, serve, text_index):
    """The explorer of a server of this test alone, which removes its uploads when it ends."""
    with serve(text_index, http__explorer=True) as server:
        page = explorer(browser, server)
        page.dark(False)
        page.resize(1400)
        yield page


def fill(page):
    """Give every view a result."""
    add_condition(page, "number", "at least", "3")
    add_condition(page, "number", "is there")
    page.submit("search", text="rivers in winter")
    page.script("document.querySelector('#search [name=id]').value = 'd40'")
    page.one("form[name=why] button").click()
    page.wait(lambda: page.all("form[name=why] + .result > *"))
    for view in ("compare", "encode"):
        page.open(view)
        page.submit(view, text="rivers in winter")
    page.open("upload")
    page.submit("upload", lines='{"_id": "a", "text": "iron"}\n{"_id": "b", "text": "rivers"}')
    page.open("about")
    page.wait(lambda: page.all("#about dl"))


def test_a_search_shows_what_the_service_answers(page, text_server):
    page.submit("search", text="rivers in winter", k="7")
    request = {"query": {"text": "rivers in winter"}, "k": 7, "explain": True}
    answer = call(text_server.http_address, "/v1/search", request).body
    assert [one.text for one in page.all("#search .hits .id")] == [
        hit["id"] for hit in answer["hits"]
    ]
    sums = [
        int(page.script("return arguments[0].dataset.sum", one))
        for one in page.all("#search .hits [data-sum]")
    ]
    assert sums == [hit["integerScore"] for hit in answer["hits"]]
    captions = [one.get_attribute("textContent") for one in page.all("#search .hits caption")]
    assert all(caption.endswith("exactly the score") for caption in captions)
    assert page.all("#search .hits mark")
    expansion = page.all("#search .columns > div:first-child tr.expansion")
    own = page.all("#search .columns > div:first-child tbody tr:not(.expansion)")
    assert expansion
    assert own
    assert page.all("#search td.from")[0].text
    code = page.one("#search details").get_attribute("textContent")
    assert "with_document=True" in code
    assert f"http://{text_server.http_address}/v1/search" in code


def test_a_document_that_did_not_rank_is_explained(page, text_server):
    page.submit("search", text="rivers in winter", k="1")
    ranked = call(
        text_server.http_address, "/v1/search", {"query": {"text": "rivers in winter"}, "k": 48}
    ).body["hits"]
    for id, words in [(ranked[5]["id"], "Rank 6 of"), ("nothing", "No document has the id")]:
        page.script("document.querySelector('#search [name=id]').value = arguments[0]", id)
        page.one("form[name=why] button").click()
        page.wait(lambda words=words: words in page.one("form[name=why] + .result").text)
    page.script("document.querySelector('#search [name=id]').value = arguments[0]", "d1")


def choose(page, selector, value):
    """Choose an option of the last list that fits the selector."""
    page.script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))",
        page.all(selector)[-1],
        value,
    )


def add_condition(page, field, operator, value=None):
    page.one("#search .filter > button").click()
    row = page.all("#search .condition")[-1]
    choose(page, "#search .condition:last-child select:nth-of-type(1)", field)
    choose(page, "#search .condition:last-child select:nth-of-type(2)", operator)
    if value is not None:
        row.find_element("css selector", "input").send_keys(value)


def test_hits_are_filtered_and_counted(page, text_server):
    def ranked(filter=None):
        request = {"query": {"text": "rivers in winter"}, "k": 48}
        body = request if filter is None else {**request, "filter": filter}
        return call(text_server.http_address, "/v1/search", body).body

    add_condition(page, "number", "at least", "20")
    add_condition(page, "number", "is not", "25, 30,31")
    page.submit("search", text="rivers in winter", k="48")
    conditions = [
        {"field": "number", "range": {"gte": 20}},
        {"field": "number", "match": {"except": [25, 30, 31]}},
    ]
    answer = ranked({"must": conditions})
    assert 0 < len(answer["hits"]) < len(ranked()["hits"])
    ids = [one.text for one in page.all("#search .hits .id")]
    assert ids == [hit["id"] for hit in answer["hits"]]
    counts = [int(one["matchedDocuments"]) for one in (answer, ranked())]
    assert page.one("#search .counts").text == (
        f"{counts[0]} of {counts[1]} that match without the filter."
    )
    code = page.one("#search details").get_attribute("textContent")
    assert '"filter":{"must":[{"field":"number","range":{"gte":20}}' in code
    assert "filter=json.loads(" in code

    for remove in page.all("#search .condition button"):
        remove.click()
    add_condition(page, "number", "is absent")
    page.submit("search", text="rivers in winter")
    assert page.one("#search .counts").text.startswith("0 of ")
    page.all("#search .condition button")[0].click()
    add_condition(page, "number", "at most", "many")
    assert "invalid_argument: filter" in page.submit("search", text="rivers").text


def test_there_is_no_filter_without_fields(near_page):
    near_page.open("search")
    assert near_page.one("#search .filter").is_displayed()
    choose(near_page, "#search [name=collection]", "services/b")
    near_page.wait(lambda: not near_page.one("#search .filter").is_displayed())


def test_two_ways_are_compared(page):
    page.open("compare")
    result = page.submit("compare", text="rivers")
    lists = [len(one.find_elements("css selector", "li")) for one in page.all("#compare ol")]
    assert lists == [20, 20]
    assert "terms in common" in result.text
    assert page.all("#compare .move")
    page.submit("compare", text="rivers", right="/TEXT_KIND_QUERY")
    assert {one.text for one in page.all("#compare .move")} == {"same rank"}
    assert result.text.startswith("The same 20 hits in the same order.")
    assert not page.all("#compare tr.lone")


@pytest.fixture
def near_page(browser, near):
    """The explorer of a server that may ask another service, b."""
    page = explorer(browser, near)
    page.dark(False)
    page.resize(1400)
    page.open("compare")
    return page


def test_two_services_are_compared(near_page, near, other):
    result = near_page.submit("compare", text="iron in winter")
    assert near_page.one("#compare [name=right]").get_attribute("value").startswith("services/b/")
    request = {"query": {"text": "iron in winter"}, "k": 20, "withDocument": True}
    answers = [call(one.http_address, "/v1/search", request).body for one in (near, other)]
    left, right = ([hit["id"] for hit in answer["hits"]] for answer in answers)
    assert left != right
    lists = near_page.all("#compare ol")
    for shown, answer, others in zip(lists, answers, (right, left), strict=True):
        scores = [one.text for one in shown.find_elements("css selector", ".score")]
        assert scores == [f"{hit['score']:.3f}" for hit in answer["hits"]]
        moves = [one.text for one in shown.find_elements("css selector", ".move")]
        assert moves == [
            expected_move(rank, others, hit["id"]) for rank, hit in enumerate(answer["hits"])
        ]
    common = len(set(left) & set(right))
    first = next(i for i in range(20) if left[i] != right[i]) + 1
    verdict = f"{common} hits are in both columns; they differ from rank {first} on."
    assert result.text.startswith(verdict)
    names = [one.get_attribute("aria-label") for one in near_page.all("#compare section")]
    assert names == ["this index, text as query", "b, text as query"]
    assert "24 documents" in near_page.all("#compare section .hint")[1].text


def expected_move(rank, others, id):
    if id not in others:
        return "only here"
    there = others.index(id)
    if there == rank:
        return "same rank"
    return f"▲ {there - rank} higher" if there > rank else f"▼ {rank - there} lower"


def test_terms_of_both_queries_stand_side_by_side(near_page, near, other):
    near_page.submit("compare", text="iron in winter")
    given = {"texts": ["iron in winter"], "kind": "TEXT_KIND_QUERY", "decode": True}
    sides = []
    for one in (near, other):
        (encoding,) = call(one.http_address, "/v1/encode", given).body["encodings"]
        vector = encoding["vector"]
        names = [token.lstrip("Ġ") or token for token in vector["tokens"]]
        largest = max(vector["values"])
        shares = [value / largest for value in vector["values"]]
        sides.append(dict(zip(names, shares, strict=True)))
    rows = near_page.all("#compare table.compared tbody tr")
    assert len(rows) == 12
    for row in rows:
        name, _, left, _, right = [
            one.get_attribute("textContent") for one in row.find_elements("css selector", "td")
        ]
        shown = [f"{side[name]:.2f}" if name in side else "-" for side in sides]
        assert [left, right] == shown
        assert ("lone" in row.get_attribute("class")) == ("-" in shown)
    caption = near_page.one("#compare caption").text
    common = len(sides[0].keys() & sides[1].keys())
    assert caption.startswith(f"{common} terms in common, of {len(sides[0])} and {len(sides[1])};")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_of_services_is_usable_by_all(near_page, width, dark):
    near_page.submit("compare", text="iron in winter")
    near_page.resize(width)
    near_page.dark(dark)
    assert near_page.problems() == []
    assert near_page.overflow() <= 0


def test_a_service_that_is_not_there_is_told(near_page):
    words = near_page.submit("compare", text="iron", right="services/gone/TEXT_KIND_QUERY").text
    assert words.startswith("unavailable: gone: ")
    near_page.open("search")
    near_page.submit("search", text="iron", collection="services/b")
    assert near_page.all("#search .hits li")


def test_a_pasted_text_becomes_its_terms(page, text_server):
    page.open("encode")
    result = page.submit("encode", text="iron and energy")
    given = {"texts": ["iron and energy"], "kind": "TEXT_KIND_DOCUMENT"}
    (encoding,) = call(text_server.http_address, "/v1/encode", given).body["encodings"]
    assert f"became {len(encoding['vector']['indices'])} terms" in result.text
    assert page.all("#encode .tokens mark")


def test_an_upload_is_searched(uploading):
    uploading.open("upload")
    result = uploading.submit(
        "upload", lines='{"_id": "a", "text": "iron ore"}\n{"_id": "b", "text": "a river"}'
    )
    name = uploading.one("[data-collection]").get_attribute("data-collection")
    assert "2 documents are indexed" in result.text
    uploading.open("search")
    uploading.submit("search", text="river", collection=f"collections/{name}")
    assert {one.text for one in uploading.all("#search .hits .id")} <= {"a", "b"}
    address = uploading.browser.current_url.split("/")[2]
    assert call(address, f"/explore/collections/{name}/info", {}).status == 200
    uploading.open("upload")
    assert (
        "invalid_argument: upload:2"
        in uploading.submit("upload", lines='{"_id":"a","text":"b"}\n{').text
    )


def test_the_collection_page_tells_what_is_served(page):
    page.open("about")
    page.wait(lambda: page.all("#about dl"))
    shown = page.one("#about").text
    assert "48" in page.one("#about dl").text
    assert "number: integer" in shown
    assert "undefined" not in shown
    assert "NaN" not in shown


def test_the_collection_page_tells_what_another_service_holds(near_page):
    near_page.open("about")
    choose(near_page, "#about [name=collection]", "services/b")
    near_page.wait(lambda: near_page.one("#about dd").text == "24")
    choose(near_page, "#about [name=collection]", "services/gone")
    near_page.wait(lambda: "unavailable: gone: " in near_page.one("#about").text)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_view_is_usable_by_all(uploading, width, dark):
    page = uploading
    fill(page)
    page.resize(width)
    page.dark(dark)
    for view in VIEWS:
        page.open(view)
        assert page.problems() == [], view
        assert page.overflow() <= 0, view


def test_tabs_follow_the_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    page.script("document.querySelector('#tab-search').focus()")
    for view in (*VIEWS[1:], VIEWS[0]):
        page.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        assert page.one(f"#tab-{view}").get_attribute("aria-selected") == "true"
        assert page.one(f"#{view}").is_displayed()


def test_hostile_documents_are_text(browser, serve, encoder, tiny_model, tmp_path):
    index = tmp_path / "index"
    identity = {"fingerprint": encoder.fingerprint, "model": str(tiny_model), "manifest": {}}
    builder = IndexBuilder.create(index, BuildOptions(encoder.vocabulary_size, identity))
    text = f"iron {HOSTILE}"
    document = Document("<b>id</b>", text, f"title {HOSTILE}", {})
    builder.add([document], encoder.encode_document([text]))
    builder.finish()
    with serve(index, http__explorer=True) as server:
        page = explorer(browser, server)
        page.submit("search", text=f"iron {HOSTILE}")
        assert page.one("#search .hits h3").text == f"1. title {HOSTILE}"
        assert page.one("#search .hits .passage").text == text
        assert not page.all("#search img, #search script, #search b")
        assert page.browser.title == "csplade explorer"


def test_scripts_of_others_do_not_run(page):
    for markup in ("<img src=x onerror=document.title='owned'>",):
        with pytest.raises(Exception, match="TrustedHTML"):
            page.script("document.querySelector('#summary').innerHTML = arguments[0]", markup)
    policy = call(page.browser.current_url.split("/")[2], "/explore").headers[
        "content-security-policy"
    ]
    assert "'unsafe" not in policy


def test_a_wrong_key_is_told_and_a_right_one_used(browser, serve, text_index, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    with serve(text_index, http__explorer=True, security__keys_file=keys) as server:
        page = explorer(browser, server)
        assert "unauthenticated" in page.one("#summary").text
        assert "unauthenticated" in page.submit("search", text="iron").text
        for key, words in [("wrong", "permission_denied"), ("open-sesame", "48 documents")]:
            page.one("#key").clear()
            page.one("#key").send_keys(key)
            page.one("#key-form button").click()
            page.wait(lambda words=words: words in page.one("#summary").text)
        page.submit("search", text="iron")
        assert page.all("#search .hits li")


def test_a_server_that_left_is_told(browser, serve, text_index):
    with serve(text_index, http__explorer=True) as server:
        page = explorer(browser, server)
    assert "cannot be reached" in page.submit("search", text="iron").text


def test_it_is_off_unless_set(vector_server):
    assert call(vector_server.http_address, "/explore").status == 404


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="no folder in SCREENSHOTS")
def test_screenshots(browser, serve):
    """SCREENSHOTS=docs/explorer SCREENSHOTS_INDEX=DIR of the example corpus."""
    folder = Path(os.environ["SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    index = Path(os.environ["SCREENSHOTS_INDEX"])
    with (
        serve(index, model__query_encoder="both") as both,
        serve(
            index,
            http__explorer=True,
            http__services=[{"name": "table-and-network", "target": both.address}],
        ) as server,
    ):
        page = explorer(browser, server)
        page.resize(1280)

        def shoot(name, height):
            page.browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": 1280, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
            page.browser.get_screenshot_as_file(str(folder / f"{name}.png"))

        for _ in range(20):  # the first requests take longer
            call(server.http_address, "/v1/search", {"query": {"text": "bags"}, "explain": True})
        page.submit("search", text="airline lost my bags", k="5")
        page.script("document.querySelector('#search [name=id]').value = 'rainbow'")
        page.one("form[name=why] button").click()
        page.wait(lambda: page.all("form[name=why] + .result > *"))
        shoot("search", 1150)
        page.dark(True)
        page.open("compare")
        page.submit("compare", text="high and low water times at the coast")
        shoot("compare", 1000)
        page.dark(False)
        page.open("encode")
        page.submit(
            "encode", text="Cats purr when they are content, and also when they are in pain."
        )
        shoot("encode", 900)
