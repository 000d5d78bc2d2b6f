"""The page's requests in a real browser: opened, filtered, followed by keys, examined by axe.

    make test-viewer

needs Chromium, and Playwright and axe from PyPI.
"""

import shutil
import time
from pathlib import Path

import pytest
from msgspec import structs

from lm_eval_specfair.cli import main
from lm_eval_specfair.records import RecordWriter, read_records, read_run, write_run
from lm_eval_specfair.reporting.viewer.request_trace import trace_of

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright: make test-viewer installs it"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
]
PUBLISHED = Path(__file__).parents[2] / "results" / "drafters"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e&quot;"
LANGUAGES = ("ar", "km", "th", "ja", "hi", "en")


def with_rejected(record, number):
    """A published record as if its run had noted what it threw away: any other tokens."""
    steps, tokens = trace_of(record).steps, record.generated_token_ids
    rejected = [
        [(tokens[k % len(tokens)] + 7) % 7000 + 100 for k in range(step.num_thrown_away)]
        for step in steps
    ]
    for step, ids in zip(steps, rejected, strict=True):
        if ids and step.own is not None and ids[0] == tokens[step.end - 1]:
            ids[0] += 1
    fields = {"discarded_token_ids": rejected, "baseline_agrees": number % 5 != 0}
    if number == 0:
        fields |= {"failure": HOSTILE, "generated_text": HOSTILE}
    if number == 1:
        fields |= {"request_id": HOSTILE}
    return structs.replace(record, **fields)


def folder_of(path, source, *, copies=1, languages=LANGUAGES):
    changing = ("totals", "started", "finished", "load")
    run = {key: value for key, value in read_run(source).items() if key not in changing}
    path.mkdir()
    writer = RecordWriter(path)
    generated = [
        record
        for record in read_records(source)
        if record.request_type == "generate_until" and record.task[-2:] in languages
    ]
    for copy in range(copies):
        for number, record in enumerate(generated):
            # What is hostile comes once; other copies are requests of their own.
            changed = with_rejected(record, number + 2 * copy)
            name = f"{changed.request_id}/{copy}" if copy else changed.request_id
            writer.write(structs.replace(changed, request_id=name))
    writer.close()
    write_run(path, run)
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    base = folder_of(folder / "base", PUBLISHED / "embedded")
    other = folder_of(folder / "other", PUBLISHED / "embedded-fair")
    many = folder_of(
        folder / "many", PUBLISHED / "embedded", copies=5,
        languages={record.task[-2:] for record in read_records(PUBLISHED / "embedded")},
    )  # fmt: skip
    assert main(["report", str(base), "-o", str(folder / "report")]) == 0
    assert main(["compare", str(base), str(other), "-o", str(folder / "comparison")]) == 0
    assert main(["report", str(many), "-o", str(folder / "large")]) == 0
    return {
        "report": folder / "report" / "report.html",
        "comparison": folder / "comparison" / "comparison.html",
        "large": folder / "large" / "report.html",
    }


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page that was opened, and all that went wrong on it."""

    def __init__(self, browser, path, *, width=1300, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.faults = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self._requested(request.url, path))
        self.page.goto(path.as_uri())

    def _requested(self, url, path):
        if url != path.as_uri():
            self.faults.append(f"request: {url}")

    def open_all(self, groups=9, requests=3):
        """Open groups, then the first requests of each."""
        for kind, most in (("group", groups), ("request", requests)):
            self.page.evaluate(
                """([kind, most]) => {
                  const seen = new Map();
                  for (const each of document.querySelectorAll(`details.${kind}`)) {
                    const number = (seen.get(each.parentElement) ?? 0) + 1;
                    seen.set(each.parentElement, number);
                    each.open = number <= most;
                  }
                }""",
                [kind, most],
            )
            self.page.wait_for_timeout(100)

    def cut_texts(self):
        """Elements of the viewer whose text does not fit into them, and the page if it scrolls."""
        return self.page.evaluate(
            """() => {
              const most = innerWidth + 1, wide = [];
              if (document.documentElement.scrollWidth > most) wide.push("the page");
              for (const each of document.querySelectorAll(".viewer *")) {
                const hides = ["hidden", "clip"].includes(getComputedStyle(each).overflowX);
                const isCut = hides && each.scrollWidth > each.clientWidth + 1;
                const box = each.getBoundingClientRect();
                const isOut = box.width && box.right > most && !each.closest(".wide");
                if (isCut || isOut) wide.push(each.outerHTML.slice(0, 80));
              }
              return wide;
            }"""
        )


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_axe_finds_nothing(pages, browser, name, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    visit = Visit(browser, pages[name], width=width, scheme=scheme)
    visit.open_all()
    visit.page.evaluate("document.querySelector('details.steps').open = true")
    visit.page.locator(".tokens").first.focus()

    assert visit.cut_texts() == []
    found = axe.Axe().run(visit.page)
    assert [violation["id"] for violation in found.response["violations"]] == []
    if width == 1300:
        visit.page.emulate_media(media="print")
        assert visit.cut_texts() == []
    assert visit.faults == []


def test_a_trace_on_the_page_is_the_one_of_the_terminal(pages, browser, capsys):
    visit = Visit(browser, pages["report"])
    visit.open_all(groups=99, requests=99)
    shown = {
        box.locator("summary bdi").first.inner_text(): box
        for box in visit.page.locator("details.request").all()
    }
    assert len(shown) > 50

    folder = pages["report"].parents[1] / "base"
    for record in list(read_records(folder))[2::9]:
        box, trace = shown[record.request_id], trace_of(record)
        said = box.locator(".counts").inner_text()
        for name, words in (
            ("kept", "drafted and kept"),
            ("replaced", "the target's own, in place of a rejected draft"),
            ("thrown_away", "drafted and thrown away"),
        ):
            number = trace.counts().get(name, 0)
            assert not number or f"{number} {words}" in said
        # Kept tokens that share no character with others are the blue ones.
        cells = box.locator(".tokens > span").count()
        text = "".join(box.locator(".tokens > span").all_text_contents())
        assert cells
        if "\\x" not in text and "<|" not in text:
            assert text == record.generated_text
    assert visit.faults == []


def test_filters_and_orders_show_what_they_say(pages, browser):
    visit = Visit(browser, pages["report"])
    page = visit.page
    show, order = page.locator(".tools select").all()
    records = list(read_records(pages["report"].parents[1] / "base"))
    slower = [
        record
        for record in records
        if record.baseline_seconds
        and record.decode_seconds / record.num_generated_tokens
        > record.baseline_seconds / record.baseline_generated_tokens
    ]

    order.select_option(label="speed, slowest first")
    for words, number in (
        ("slower than without a drafter", len(slower)),
        ("failed", 1),
        ("differs from plain decoding", sum(not record.baseline_agrees for record in records)),
        ("ends at its length limit", sum(r.finish_reason == "length" for r in records)),
    ):
        show.select_option(label=f"{words} ({number})")
        more = page.locator("button.more")
        while more.is_visible():
            more.click()
        assert page.locator("details.request").count() == number
    show.select_option(index=0)
    rates = [
        float(text.split(" tokens a step")[0].split(" ")[-1])
        for text in page.locator("details.request summary .muted").all_inner_texts()
        if "tokens a step" in text
    ]
    assert rates == sorted(rates)
    assert visit.faults == []


def test_keys_go_through_a_text_and_say_what_is_there(pages, browser):
    visit = Visit(browser, pages["report"])
    visit.open_all(groups=99, requests=1)
    for text in visit.page.locator(".tokens").all():
        if text.get_attribute("tabindex") is None:
            continue
        detail = text.locator("xpath=following-sibling::p").first
        text.focus()
        visit.page.keyboard.press("Home")
        assert detail.inner_text().startswith(("Token 1 of", "Tokens 1 to"))
        visit.page.keyboard.press("End")
        number = text.locator("> span").count()
        current = text.locator(".current")
        assert current.get_attribute("data-cell") == str(number - 1)
        is_right = text.evaluate("each => getComputedStyle(each).direction") == "rtl"
        visit.page.keyboard.press("ArrowRight" if is_right else "ArrowLeft")
        assert current.get_attribute("data-cell") == str(max(0, number - 2))
        visit.page.keyboard.press("Home")
        visit.page.mouse.move(0, 0)
        text.locator("> span").last.hover()
        assert current.get_attribute("data-cell") == str(number - 1)
    assert visit.faults == []


def test_hostile_strings_stay_text(pages, browser):
    visit = Visit(browser, pages["report"])
    visit.open_all(groups=99, requests=99)

    assert visit.page.locator("img").count() == 0
    text = visit.page.locator("section.viewer").inner_text()
    assert "</script><script>alert(1)</script>" in text
    assert "\u202e" not in text
    assert visit.faults == []


def test_both_traces_of_a_request_stand_one_above_the_other(pages, browser):
    visit = Visit(browser, pages["comparison"])
    visit.open_all(groups=3, requests=2)
    request = visit.page.locator("details.request[open]").nth(1)

    assert request.locator("h3").all_inner_texts() == ["base", "other"]
    coloured = request.locator(".tokens > span.same").count()
    visit.page.get_by_label("different only").check()
    assert request.locator(".tokens > span.same").count() > coloured == 0
    assert visit.faults == []


def test_twelve_hundred_requests_take_3_mb_and_are_usable_at_once(pages, browser):
    assert pages["large"].stat().st_size <= 3_000_000
    visit = Visit(browser, pages["large"])
    assert "1,200 of 1,500 requests" in visit.page.locator(".viewer > p").first.inner_text()
    timing = visit.page.evaluate(
        "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    )
    started = time.perf_counter()
    visit.open_all(groups=1, requests=1)
    opened = time.perf_counter() - started
    print(f"loaded and drawn in {timing:.0f} ms, a group and a request opened in {opened:.2f} s")

    assert timing < 3_000  # a second on a quiet machine
    assert visit.page.locator(".tokens").count() == 1
    assert visit.faults == []
