"""The page of a report in a real browser: filters, order, enlarging, many rows, small screens."""

import time

import pytest
from browser import CHROMIUM, DRIVER, browser
from image_folders import picture

from diffaug.previews.page import Album, Report, ReportRow, write_report

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")


def report(count):
    album, rows = Album(64), []
    numbers = [album.add(picture(seed)) for seed in range(8)]
    for n in range(count):
        name = ("cat", "dog", "a <b>bird</b>")[n % 3]
        row = ReportRow(
            f"{name}/{n}.jpg",
            [(name, 84), ("fish", 16)] if n % 5 == 0 else [(name, 100)],
            {"original": numbers[n % 8], "result": numbers[(n + 1) % 8]},
            prompt=("snowy", "sunset")[n % 2],
            facts=[("seed", str(n))],
            scores={"similarity": round((n * 37 % 100) / 100, 2), "clip": n / count},
        )
        if n % 10 == 0:
            row.marks["lost"] = "hardly resembles its source"
        if n % 15 == 0:
            row.marks["retried"] = "made at attempt 2"
            row.pictures["original"] = "the source is gone"
        rows.append(row)
    settings = [("model", "tiny"), ("prompts", "snowy, sunset")]
    return Report("birds", "a set", settings, rows, album, bounds={"similarity": (0.1, 0.98)})


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@pytest.fixture
def page(window, tmp_path):
    write_report(tmp_path / "report.html", report(60))
    window.resize(1400, 900)
    window.open(tmp_path / "report.html")
    yield window
    assert [] == window.complaints()


NAMES = "[...document.querySelectorAll('.row h2')].map((h) => h.textContent)"


def choose(page, **values):
    for name, value in values.items():
        page.run(
            f"const s = document.getElementById('{name}'); s.value = {value!r};"
            "s.dispatchEvent(new Event('change', { bubbles: true }));"
        )
    return page.run(f"while (drawn < rows.length) more(); return {NAMES}")


def test_every_row_is_there_and_a_name_is_text(page):
    names = choose(page)
    assert [row.name for row in report(60).rows] == names
    assert 0 == page.run("return document.querySelectorAll('.row b').length")


def test_rows_are_filtered_by_class_prompt_and_mark(page):
    rows = report(60).rows
    assert [r.name for r in rows if r.classes[0][0] == "dog"] == choose(page, **{"class": "=dog"})
    assert [r.name for r in rows if len(r.classes) > 1] == choose(page, **{"class": "=fish"})
    both = [r.name for r in rows if len(r.classes) > 1 and r.prompt == "snowy"]
    assert both == choose(page, prompt="=snowy")
    assert f"{len(both)} of 60 images" == page.run(
        "return document.getElementById('shown').textContent"
    )
    page.run("document.querySelector('button[type=reset]').click()")
    time.sleep(0.2)
    assert [r.name for r in rows if "lost" in r.marks] == choose(page, mark="lost")
    assert [r.name for r in rows if r.marks] == choose(page, mark="any")


def test_a_class_of_the_counts_is_a_filter(page):
    click = "document.querySelector('button.class[data-class=cat]').click();"
    assert 20 == len(page.run(f"{click} while (drawn < rows.length) more(); return {NAMES}"))
    assert ["true"] == page.run(
        "return [...document.querySelectorAll('button.class[aria-pressed=true]')]"
        ".map((b) => b.getAttribute('aria-pressed'))"
    )
    assert 60 == len(page.run(f"{click} while (drawn < rows.length) more(); return {NAMES}"))


def test_rows_are_sorted_by_a_score_and_the_worst_are_at_both_ends_of_bounds(page):
    rows = report(60).rows
    by_clip = sorted(rows, key=lambda row: row.scores["clip"])
    assert [r.name for r in reversed(by_clip)] == choose(page, order="-clip")
    choose(page, order="")
    assert [r.name for r in by_clip[:20]] == choose(page, mark="worst clip")
    far = sorted(rows, key=lambda row: -abs(row.scores["similarity"] - 0.54))
    assert {r.name for r in far[:20]} == set(choose(page, mark="worst similarity"))


def test_an_image_is_enlarged_and_the_keys_go_on(page):
    page.run("document.querySelectorAll('.row')[1].querySelector('button').click()")
    said = "return [large.open, large.querySelector('figcaption').textContent]"
    assert [True, "original · dog/1.jpg · sunset"] == page.run(said)
    page.press("\ue014")
    assert [True, "result · dog/1.jpg · sunset"] == page.run(said)
    page.press("\ue014")
    assert [True, "original · a <b>bird</b>/2.jpg · snowy"] == page.run(said)
    page.press("\ue00c")
    assert page.run("return !large.open && document.activeElement.tagName") == "BUTTON"


def test_pictures_have_words_and_a_missing_one_its_reason(page):
    alts = page.run("return [...document.querySelectorAll('.row img')].map((i) => i.alt)")
    assert "result of cat/0.jpg" == alts[0] and all(alts)
    assert "the source is gone" == page.run("return document.querySelector('.none').textContent")
    assert ["84%", "16%"] == page.run(
        "return [...document.querySelectorAll('.row .label')[0].querySelectorAll('.bar')]"
        ".map((b) => b.style.width)"
    )


CONTRAST = """
const light = (c) => { const v = c / 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
const lum = ([r, g, b]) => .2126 * light(r) + .7152 * light(g) + .0722 * light(b);
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const paper = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
return Math.min(...[...document.querySelectorAll("h1,h2,p,dt,dd,li,label,output,figcaption,button,summary")]
  .filter((e) => e.textContent.trim() && e.offsetParent).map((e) => {
    const [a, b] = [lum(rgb(getComputedStyle(e).color)), lum(paper(e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05); }));
"""  # noqa: E501


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_the_light_and_in_the_dark(page, dark):
    page.resize(1400, 900, dark=dark)
    assert page.run(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_no_screen_has_to_be_moved_sideways(page, width):
    page.resize(width, 800)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "height"), [(1400, 1000), (390, 844)])
def test_a_picture_is_on_the_first_screen(window, page, width, height):
    window.resize(width, height)
    window.run("location.reload()")
    top = window.run("return document.querySelector('.picture img').getBoundingClientRect().top")
    assert 0 < top < height - 50
    opened = window.run("return document.querySelectorAll('details.panel[open]').length")
    assert (2 if width > 640 else 0) == opened


def test_thousands_of_rows_do_not_freeze_the_page(window, tmp_path):
    write_report(tmp_path / "many.html", report(5000))
    window.resize(1400, 900)
    window.open(tmp_path / "many.html")
    assert window.run("return document.querySelectorAll('.row').length") < 500
    slowest = window.run("""
        let slowest = 0;
        for (const order of ["-clip", "+similarity", ""]) {
          const start = performance.now();
          find("order").value = order; refresh();
          void document.body.offsetHeight;
          slowest = Math.max(slowest, performance.now() - start);
        }
        return slowest;""")
    assert slowest < 1000  # about 30 ms on a free machine
    window.run("scrollTo(0, document.body.scrollHeight)")
    before, until = 30, time.monotonic() + 20
    while window.run("return document.querySelectorAll('.row').length") <= before:
        assert time.monotonic() < until, "no more rows came"
        time.sleep(0.1)


def test_a_picture_of_the_album_is_decoded(page):
    drawn = "return document.querySelector('.row img').naturalWidth"
    until = time.monotonic() + 20
    while not page.run(drawn):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert picture(0).shape[2] == page.run(drawn)
