"""report.html in Chromium: nothing fetched, nothing said, every control works, axe-core finds nothing, no page scrolls
sideways; in the light, in the dark, narrow, on paper."""

import json
from pathlib import Path

import pytest
from browser.devtools import Page

RUNS = ("pass", "fail", "inconclusive", "incomplete")
VIEWS = {"wide": (1280, False), "narrow": (400, False), "dark": (1280, True), "narrow-dark": (400, True)}
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"
LARGEST = 5_000_000


@pytest.mark.parametrize("run", RUNS)
def test_it_is_one_file_that_asks_for_nothing_and_says_nothing(page: Page, pages: dict[str, Path], run: str) -> None:
    page.open(pages[run])
    assert page.asked == [pages[run].resolve().as_uri()]
    assert page.said == []
    assert pages[run].stat().st_size < LARGEST
    assert page.run("document.scripts.length") == 0
    assert run in page.run("document.title")
    assert run.upper() in page.run("document.querySelector('h1').innerText")


def test_a_page_that_fetches_runs_or_is_wrong_is_seen(page: Page, axe: str, tmp_path: Path) -> None:
    """What the other tests look for is found where it is."""
    path = tmp_path / "wrong.html"
    path.write_text(
        '<html><body style="color: #bbb; background: #fff"><p>pale</p><img src="http://example.invalid/a.png">'
        '<div style="width: 3000px">wide</div><script>console.error("no")</script></body></html>',
        encoding="utf-8",
    )
    page.open(path)
    assert any("example.invalid" in address for address in page.asked)
    assert any("no" in line for line in page.said)
    assert width_beyond(page) > 0
    assert {"color-contrast", "image-alt", "html-has-lang"} <= {found.split(":")[0] for found in violations(page, axe)}


def test_its_own_policy_lets_no_script_run_and_nothing_be_fetched(
    page: Page, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = pages["pass"].read_text(encoding="utf-8")
    planted = '<script>document.title = "run"</script><img alt="" src="http://example.invalid/a.png"></main>'
    path = tmp_path / "planted.html"
    path.write_text(text.replace("</main>", planted), encoding="utf-8")
    page.open(path)
    assert page.run("document.title") == "eaftgate: pass"
    assert sum("Content Security Policy" in line for line in page.said) == 2, page.said


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("run", RUNS)
def test_contrast_labels_and_width(
    page: Page, pages: dict[str, Path], axe: str, run: str, view: str, request: pytest.FixtureRequest
) -> None:
    width, dark = VIEWS[view]
    page.open(pages[run], width=width, dark=dark)
    if screenshots := request.config.getoption("--screenshots"):
        screenshots.mkdir(parents=True, exist_ok=True)
        page.picture(screenshots / f"{run}-{view}.png")
    assert width_beyond(page) <= 0
    page.run(OPEN_ALL)
    assert width_beyond(page) <= 0
    assert violations(page, axe) == []


def width_beyond(page: Page) -> int:
    """Pixels that the page is wider than its window."""
    found: int = page.run("document.scrollingElement.scrollWidth - innerWidth")
    return found


def violations(page: Page, axe: str) -> list[str]:
    page.run(f"{axe}; 0")
    found = json.loads(page.run("axe.run().then(found => JSON.stringify(found.violations))"))
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("run", RUNS)
def test_every_link_leads_to_a_place_that_is_seen(page: Page, pages: dict[str, Path], run: str) -> None:
    """Also into what is closed."""
    page.open(pages[run])
    lost = page.run("""(async () => {
        const lost = [];
        document.querySelectorAll('details').forEach(d => d.open = false);
        for (const href of new Set([...document.links].map(a => a.getAttribute('href')))) {
            const link = [...document.links].find(a => a.getAttribute('href') == href);
            link.click();
            await new Promise(done => setTimeout(done, 10));
            const place = document.querySelector(':target');
            if (!href.startsWith('#') || place?.id != href.slice(1) || !place.checkVisibility()) lost.push(href);
        }
        return lost;
    })()""")
    assert page.run("document.links.length") > 3
    assert lost == []


@pytest.mark.parametrize("run", RUNS)
def test_a_keyboard_reaches_and_works_everything(page: Page, pages: dict[str, Path], run: str) -> None:
    """Tab goes through links, what opens and boxes that scroll; Enter opens and closes."""
    page.open(pages[run])
    page.run("document.querySelectorAll('details').forEach(d => d.open = false)")
    wanted = page.run("""[...document.querySelectorAll('a, summary, [tabindex]')]
        .filter(e => e.checkVisibility({contentVisibilityAuto: true})).length""")
    reached, opened = 0, 0
    page.run("document.body.focus()")
    for _ in range(wanted):
        page.press("Tab", 9)
        kind = page.run("document.activeElement.localName")
        reached += kind in ("a", "summary", "div")
        if kind == "summary":
            page.press("Enter", 13, "\r")
            opened += page.run("document.activeElement.parentElement.open")
            page.press("Enter", 13, "\r")
            assert page.run("document.activeElement.parentElement.open") is False
        if kind == "div":
            assert page.run("document.activeElement.getAttribute('aria-label')")
    assert reached == wanted
    assert opened == page.run("document.querySelectorAll('summary').length") - page.run(
        "document.querySelectorAll('details details > summary').length"
    )


@pytest.mark.parametrize("run", RUNS)
def test_on_paper_everything_is_there(page: Page, pages: dict[str, Path], run: str) -> None:
    page.open(pages[run], dark=True)
    page.show(dark=True, media="print")
    hidden = page.run("""[...document.querySelectorAll('details > :not(summary)')]
        .filter(e => e.getBoundingClientRect().height == 0).map(e => e.outerHTML.slice(0, 100))""")
    page.show()
    assert hidden == []


@pytest.mark.parametrize("run", ["pass", "fail", "inconclusive"])
def test_what_is_drawn_stands_beside_it_as_text(page: Page, pages: dict[str, Path], run: str) -> None:
    page.open(pages[run])
    page.run(OPEN_ALL)
    rows = page.run("""[...document.querySelectorAll('.panel tbody tr')].filter(r => r.querySelector('.dot, .arrow'))
        .map(r => r.lastElementChild.innerText)""")
    assert len(rows) > 3
    assert all(any(character.isdigit() for character in row) for row in rows)
    assert page.run("[...document.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label'))")


def test_where_the_margin_is_drawn_is_where_the_figures_say(page: Page, pages: dict[str, Path]) -> None:
    """A dot lies to the right of the margin just where the case has failed by its estimate."""
    page.open(pages["fail"])
    beyond = page.run("""[...document.querySelectorAll('[id$=-ppl] tbody tr')]
        .filter(r => r.querySelector('.dot, .arrow')).map(r => {
        const limit = r.querySelector('.limit').getBoundingClientRect().x;
        const mark = r.querySelector('.dot, .arrow');
        return [parseFloat(r.lastElementChild.innerText), mark.getBoundingClientRect().x > limit];
    })""")
    assert {is_beyond for _, is_beyond in beyond} == {True, False}
    assert all(is_beyond == (percent > 5) for percent, is_beyond in beyond)
