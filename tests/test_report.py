"""The HTML report: one file, opened without server and network, that nothing in a run can turn against its reader."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from darts_core import events, runs
from darts_core.errors import BadInput
from darts_core.export import export
from darts_core.view.recorded import recorded
from darts_core.view.report import report
from tests import fake_writer

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>&amp;\'"--><!--'


@pytest.fixture(scope="module")
def made() -> str:
    return report(runs.RunReader(SAMPLES, "collapsing")).decode()


def opened(browser: Browser, path: Path, troubles: list[str], **options: object) -> Page:
    """The file in a browser without a network; whatever it asks for or complains of goes into `troubles`."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, **options)  # type: ignore[arg-type]
    context.set_offline(True)
    page = context.new_page()
    page.on("request", lambda request: troubles.extend({f"asked {request.url}"} - {f"asked {path.as_uri()}"}))
    page.on("response", lambda answer: troubles.extend({f"got {answer.url}"} - {f"got {path.as_uri()}"}))
    page.on("console", lambda message: troubles.extend([message.text] if message.type == "error" else []))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.goto(path.as_uri())
    return page


class Tags(HTMLParser):
    """Collects (tag, attributes) of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_file_names_no_other_file_and_is_small(made: str) -> None:
    for tag, attributes in Tags(made).found:
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    assert "@import" not in made and "url(" not in made and len(made) < 2_000_000


def test_the_policy_allows_the_one_script_and_nothing_else(made: str) -> None:
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', made)[1])  # type: ignore[index]
    script = made.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy and "unsafe-eval" not in policy


def test_what_a_run_says_stays_text(tmp_path: Path) -> None:
    info = fake_writer.info("tricky", 40) | {"title": HOSTILE[:200]}
    with runs.RunWriter.create(tmp_path, "tricky", info) as writer:
        space = recorded(runs.RunReader(SAMPLES, "collapsing")).space
        for number in range(1, 41):
            writer.append(fake_writer.step_of(number, 40, space, {"w_lr": 0.05, "a_lr": 0.1}))
        writer.append(events.Applied("i", 20, "set", "a_lr", HOSTILE, True, "", 0))
        writer.append(events.Failure(40, HOSTILE, HOSTILE))
    text = report(runs.RunReader(tmp_path, "tricky")).decode()
    tags = Tags(text).found
    assert [tag for tag, _ in tags].count("script") == 2 and "img" not in [tag for tag, _ in tags]
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["lecture"]["runs"][0]["title"] == HOSTILE[:200]


def test_a_run_without_steps_is_a_sentence(tmp_path: Path) -> None:
    runs.RunWriter.create(tmp_path, "empty", fake_writer.info("empty", 40)).close()
    with pytest.raises(BadInput, match="no step was recorded"):
        report(runs.RunReader(tmp_path, "empty"))


def test_the_table_of_exports_writes_it(made: str) -> None:
    reader = runs.RunReader(SAMPLES, "collapsing")
    genotype = recorded(reader).result()
    assert genotype is not None and export(genotype, "html", run=reader).decode() == made


@pytest.mark.browser
def test_it_opens_from_the_disk_and_scrubs_without_a_network(browser: Browser, tmp_path: Path, made: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(made)
    troubles: list[str] = []
    page = opened(browser, path, troubles)
    run = recorded(runs.RunReader(SAMPLES, "collapsing"))
    slider = page.get_by_role("slider", name="Place in the search")
    assert page.locator("#lecture").get_attribute("data-shown") == str(run.last_step)
    seen = []
    for key in ("Home", "ArrowRight", "End"):
        slider.press(key)
        step = int(page.locator("#lecture").get_attribute("data-shown") or 0)
        label = page.locator("#lecture .rb-edge").first.get_attribute("aria-label") or ""
        weight = run.mixes(run.index(step))["normal"][0].max()
        assert f"{100 * weight:.0f} %" in label, (step, label)
        seen.append(step)
    assert seen[0] == run.steps["step"][0] and seen[1] == run.steps["step"][1] and seen[2] == run.last_step
    assert page.locator("#lecture .lc-charts .ch").count() == 5
    cursor = page.locator("#lecture .lc-charts .ch-cursor").first
    before = cursor.get_attribute("x1")
    slider.press("Home")
    assert cursor.get_attribute("x1") != before
    page.locator("#lecture .rb-edge").nth(4).focus()
    page.keyboard.press("Enter")
    assert "node 0 to node 1" in page.locator("#lecture .lc-edge h3").inner_text()
    page.get_by_role("button", name="Play").click()
    until = time.monotonic() + 20
    while int(page.locator("#lecture").get_attribute("data-position") or 0) < 60:
        assert time.monotonic() < until, "it does not play"
        page.wait_for_timeout(100)
    assert page.locator("#reasons .lc-card").count() == 6
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not troubles


@pytest.mark.browser
def test_a_hostile_title_does_nothing_in_a_browser(browser: Browser, tmp_path: Path, made: str) -> None:
    """Even a script that got past the escaping would not run: the policy of the file forbids it."""
    path = tmp_path / "report.html"
    path.write_text(made.replace("<main>", "<main><script>window.owned = 1</script><img src='http://127.0.0.1:9/x'>"))
    troubles: list[str] = []
    page = opened(browser, path, troubles)
    assert page.evaluate("window.owned") is None
    assert page.get_by_role("slider").is_visible()
    refused = [trouble for trouble in troubles if "Content Security Policy" in trouble]
    assert len(refused) >= 2 and not [trouble for trouble in troubles if trouble.startswith("got ")]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_those_who_read_with_other_means(
    browser: Browser, tmp_path: Path, made: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "report.html"
    path.write_text(re.sub(r"<meta http-equiv[^>]+>", "", made))  # axe runs as a script of its own
    page = opened(browser, path, [], color_scheme=scheme)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert not serious
    page.set_viewport_size({"width": 420, "height": 800})
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.browser
def test_without_scripts_it_is_still_a_picture(browser: Browser, tmp_path: Path, made: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(made)
    page = opened(browser, path, [], java_script_enabled=False)
    assert page.locator("#lecture svg").count() == 1 and "carries" in page.locator("#reasons").inner_text()
