"""The reports of the fixtures in headless Chromium: no console error, no request, every chart drawn,
every table sorts by mouse and by keyboard, everything has a name, a phone and paper show all of it.

Pictures of the pages go to the folder that is named, if one is: check_reports.py BINARY [FOLDER]. With
C360_WRITE_DOCS=1 the picture of the documentation, docs/images/report.png, is taken again.
Chromium is the machine's own, at $CHROMIUM or /usr/bin/chromium.
"""

import os
import pathlib
import shutil
import sys

from playwright.sync_api import sync_playwright

from project import REPOSITORY, project, run

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PICTURE = bool(os.environ.get("C360_WRITE_DOCS"))
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# What every chart must be: drawn with a size, at least one trace that shows something, and named.
CHARTS = """() => [...document.querySelectorAll('.chart')].map(chart => {
  const svg = chart.querySelector('svg.main-svg');
  const marks = chart.querySelectorAll(
    '.scatterlayer .trace path, .scatterlayer .trace .point, .barlayer .point path, .sankey-link, .heatmaplayer image');
  const drawn = [...marks].filter(mark => {
    const box = mark.getBoundingClientRect();
    return box.width + box.height > 0;
  });
  return {
    id: chart.id, width: svg ? svg.getBoundingClientRect().width : 0,
    marks: drawn.length, traces: JSON.parse(document.getElementById(chart.id + '-data').textContent).data.length,
    name: chart.getAttribute('aria-label') || '', role: chart.getAttribute('role'),
  };
})"""
# What a reader of the page's structure needs.
STRUCTURE = """() => ({
  language: document.documentElement.lang, title: document.title,
  headings: [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1])),
  unnamed: [...document.querySelectorAll('button, a, table, [role=region]')].filter(e =>
    !(e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML.slice(0, 80)),
  dangling: [...document.querySelectorAll('a[href^="#"]')].filter(a =>
    !document.getElementById(a.getAttribute('href').slice(1))).map(a => a.outerHTML),
  twice: [...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i),
})"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Contrast of text against what is behind it, as WCAG 2.2 defines it.
CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { c = c / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor);
  };
  const faint = [];
  for (const element of document.querySelectorAll('p, li, td, th, button, dt, dd, a, span, h1, h2, h3, strong, caption, figcaption, summary')) {
    if (!element.textContent.trim() || !element.getClientRects().length || element.closest('.chart')) continue;
    if (element.className === 'skip') continue;
    const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)} ${element.textContent.slice(0, 40)}`);
  }
  return [...new Set(faint)].slice(0, 5);
}"""


def column(table, number):
    """What a column of a table sorts by, from top to bottom."""
    return table.evaluate(
        """(table, number) => [...table.tBodies[0].rows].map(row => {
          const cell = row.cells[number];
          return cell.hasAttribute('data-value') ? Number(cell.dataset.value) : cell.textContent;
        })""",
        number,
    )


def sorts(page, table):
    """Its columns sort up by Enter and down by a click."""
    heads = table.locator("thead th")
    for number in range(heads.count()):
        head = heads.nth(number)
        before = column(table, number)
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        up = column(table, number)
        head.locator("button").dispatch_event("click")
        assert head.get_attribute("aria-sort") == "descending"
        down = column(table, number)
        assert sorted(map(str, before)) == sorted(map(str, up)) == sorted(map(str, down))
        if all(isinstance(value, (int, float)) for value in before):
            assert up == sorted(before) and down == sorted(before, reverse=True), before


def check(browser, path, pictures, name):
    problems = []
    for scheme, viewport in [("light", DESK), ("dark", DESK), ("light", PHONE)]:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: problems.append(r.url) if not r.url.startswith("file:") else None)
        page.goto(path.as_uri())
        loaded = page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
        page.wait_for_function("() => window.Plotly || !document.querySelector('.chart')")
        page.wait_for_timeout(500)
        if PICTURE and name == "churn" and viewport is DESK and scheme == "light":
            page.screenshot(path=str(REPOSITORY / "docs/images/report.png"))
        # Charts are drawn when they come into view.
        for chart in page.locator(".chart").all():
            chart.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        kind = "phone" if viewport is PHONE else scheme
        charts = page.evaluate(CHARTS)
        for chart in charts:
            assert chart["width"] > 100 and chart["marks"] > 0, f"{name} {kind}: not drawn: {chart}"
            assert chart["role"] == "img" and len(chart["name"]) > 20, f"{name}: unnamed: {chart}"
        assert page.evaluate(OVERFLOW) <= 0, f"{name} {kind}: the page is wider than the screen"
        faint = page.evaluate(CONTRAST)
        assert not faint, f"{name} {kind}: too faint: {faint}"
        if pictures:
            page.screenshot(path=str(pictures / f"{name}-{kind}.png"), full_page=True)
        if kind == "light":
            structure = page.evaluate(STRUCTURE)
            assert structure["language"] == "en" and structure["title"], structure
            steps = zip(structure["headings"], structure["headings"][1:])
            assert structure["headings"][0] == 1 and all(b - a <= 1 for a, b in steps), structure
            assert not (structure["unnamed"] or structure["dangling"] or structure["twice"]), structure
            # The first stop of the keyboard skips to the content; every fold opens by it.
            page.keyboard.press("Tab")
            assert page.evaluate("() => document.activeElement.className") == "skip"
            for fold in page.locator("summary").all():
                fold.focus()
                page.keyboard.press("Enter")
                assert fold.evaluate("summary => summary.parentElement.open")
            tables = page.locator("table.sortable").all()
            for table in tables:
                sorts(page, table)
            page.emulate_media(media="print")
            page.set_viewport_size({"width": 794, "height": 1123})
            page.wait_for_timeout(500)
            for chart in page.evaluate(CHARTS):
                assert chart["marks"] > 0 and 100 < chart["width"] <= 794, f"{name} on paper: {chart}"
            assert page.evaluate(OVERFLOW) <= 0, f"{name}: wider than paper"
            if pictures:
                page.pdf(path=str(pictures / f"{name}.pdf"), format="A4")
            size = path.stat().st_size / 1000
            found = f"{len(charts)} charts, {len(tables)} tables, {len(structure['headings'])} headings"
            print(f"{name}: {size:.0f} KB, loaded after {loaded:.0f} ms, {found}")
        context.close()
    assert not problems, f"{name}: {problems}"


def main():
    binary = sys.argv[1]
    pictures = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    # Two runs, so that scores, drift, flows and skew have something before them.
    levels = '[inputs]\nattributes = ["country"]'
    folder = project(churn=("", levels), propensity=('algorithm = "gbdt"', ""))
    run(binary, folder, "run", "--as-of", "2024-03-01")
    run(binary, folder, "train", "--as-of", "2024-07-01", code=None)
    run(binary, folder, "run")
    run(binary, folder, "report")
    store = folder / "store"
    pages = {"index": store / "reports.html"}
    for path in sorted(store.glob("models/*/2024-07-01*/report.html")):
        pages[path.parts[-3]] = path
    pages["run"] = sorted(store.glob("runs/*-score/report.html"))[-1]
    pages["segments"] = sorted(store.glob("runs/*-score/segments.html"))[-1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, path in pages.items():
            check(browser, path, pictures, name)
        browser.close()
    shutil.rmtree(folder)


main()
