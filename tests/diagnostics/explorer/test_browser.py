"""The page in a real browser: every control moved, and what changes on screen."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import tapadl
from tapadl.diagnostics import head_mean_attention, measure_dilation
from tapadl.diagnostics.explorer import Picture, Subject, all_conditions
from tapadl.diagnostics.explorer.detail import LADDER, Detail
from tapadl.diagnostics.explorer.exploration import explore
from tapadl.diagnostics.explorer.page import render_explorer
from tapadl.diagnostics.explorer.pictures import under_conditions

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium, of the Debian package")

CONDITIONS = all_conditions(["fog", "contrast"], [1, 3, 5])
ROWS, COLS = 4, 6


def halves(images):
    return (images - 0.5) / 0.5


def prepared(height, width):
    return lambda image: torch.from_numpy(np.array(image.resize((width, height)))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Pages of a ViT with TAP beside a Swin, whole and thinned out, and what they were made of."""
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    vit = tapadl.attach_tap(timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), **options)).eval()
    swin = timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=8, depths=(2, 1), num_heads=(2, 4), window_size=4, num_classes=3
    ).eval()
    for model in (vit, swin):
        for name, parameter in model.named_parameters():
            if "qkv" in name or "proj.2" in name or "head" in name:
                torch.nn.init.normal_(parameter, std=0.6)
    subjects = [
        Subject("vit with tap", vit, prepared(32, 48), halves, ["cat", "dog", "bird"].__getitem__),
        Subject("swin", swin, prepared(32, 32), halves),
    ]
    draw = np.random.default_rng(0)
    pictures = [
        Picture(name, Image.fromarray(draw.integers(0, 256, (40, 60, 3), dtype=np.uint8)), place)
        for place, name in enumerate(("first", "second"))
    ]
    folder = tmp_path_factory.mktemp("explorer")
    for name, detail in (("whole", LADDER[0]), ("thin", Detail(1, 2, 0, None))):
        found = explore(subjects, pictures, CONDITIONS, detail=detail)
        (folder / f"{name}.html").write_bytes(render_explorer(found, back=("Report", "report.html")))
    return SimpleNamespace(folder=folder, vit=vit, swin=swin, subjects=subjects, pictures=pictures)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser, shown):
    """A function that opens a page; whatever it complains about or asks the network for is a failure."""
    complaints, contexts = [], []

    def open_it(name="whole", **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if "http" in request.url else None)
        page.goto((shown.folder / f"{name}.html").as_uri())
        page.wait_for_selector('#app[aria-busy="false"]')
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


def figure(page, model, side):
    return page.locator(f'.panel[data-model="{model}"] figure[data-side="{side}"]')


def caption(page, model, side):
    return figure(page, model, side).locator("figcaption").inner_text()


def message(page, model):
    return page.locator(f'.panel[data-model="{model}"] .message').inner_text()


def pixels(page, model, side):
    text = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    return figure(page, model, side).locator("canvas").evaluate(text)


def slide(page, name, *keys):
    page.focus(f"#{name}")
    for key in keys:
        page.keyboard.press(key)


def choose(page, name, value):
    page.check(f'input[name="{name}"][value="{value}"]', force=True)


def click_token(page, row, col, *, rows=ROWS, cols=COLS, model=0, side="clean"):
    stack = figure(page, model, side).locator(".stack")
    stack.scroll_into_view_if_needed()
    box = stack.bounding_box()
    place = {"x": (col + 0.5) / cols * box["width"], "y": (row + 0.5) / rows * box["height"]}
    stack.click(position=place)
    page.mouse.move(0, 0)


def given(shown, model, picture, condition):
    """What a model takes of a picture under a condition."""
    subject, source = shown.subjects[model], shown.pictures[picture]
    images = under_conditions(subject.prepare(source.image), CONDITIONS, source.index, 0)
    return halves(images[condition : condition + 1].float() / 255)


def says(text, patches, cols):
    """Whether a caption names the largest of patches (N,), and its share."""
    row, col, share = re.match(r"Most: row (\d+), column (\d+) \(([\d.]+) %", text).groups()
    place = (int(row) - 1) * cols + int(col) - 1
    return place == patches.argmax() and float(share) == pytest.approx(100 * patches.max().item(), abs=0.55)


def test_click_on_a_token_shows_what_it_attends_to(open_page, shown):
    page = open_page()
    click_token(page, 1, 4)
    token = 1 + 1 * COLS + 4
    for side, condition in (("clean", 0), ("corrupted", 2)):
        attention = head_mean_attention(shown.vit, given(shown, 0, 0, condition))[1][0, token]
        assert says(caption(page, 0, side), attention[1:], COLS)
        assert f"class token {100 * attention[0]:.0f}" in re.sub(r"\.\d %", " %", caption(page, 0, side)) or (
            attention[0] < 0.1
        )
    marker = (
        figure(page, 0, "corrupted")
        .locator(".marker")
        .evaluate("marker => [marker.style.left, marker.style.top]")
    )
    assert [float(side.rstrip("%")) for side in marker] == pytest.approx([100 * 4 / COLS, 25], abs=0.01)
    assert page.inner_text("#patch") == "Token at row 2, column 5"
    # the brightest square is the token that gets most
    heat = np.array(pixels(page, 0, "clean")).reshape(ROWS * COLS, 4)[:, :3]
    attention = head_mean_attention(shown.vit, given(shown, 0, 0, 0))[1][0, token, 1:]
    assert heat[:, 1].argmax() == attention.argmax()


def test_arrow_keys_on_a_picture_move_the_token(open_page):
    page = open_page()
    click_token(page, 1, 4)
    stack = figure(page, 0, "clean").locator(".stack")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert stack.evaluate("stack => getComputedStyle(stack).outlineStyle") == "solid"
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):  # the second one meets the edge
        page.keyboard.press(key)
    assert stack.get_attribute("aria-valuetext").startswith("row 3, column 6. Most: ")
    assert stack.get_attribute("aria-valuenow") == "18"
    before = pixels(page, 0, "clean")
    page.keyboard.press("ArrowLeft")
    assert stack.get_attribute("aria-valuetext").startswith("row 3, column 5. ")
    assert pixels(page, 0, "clean") != before


def test_picture_corruption_and_severity_change_what_is_shown(open_page, shown):
    page = open_page()
    photo = figure(page, 0, "corrupted").locator("img")
    seen = {photo.get_attribute("src")}
    assert page.inner_text("#status").endswith("first · Fog, severity 3")

    choose(page, "corruption", "contrast")
    seen.add(photo.get_attribute("src"))
    assert page.inner_text("#status").endswith("first · Contrast, severity 3")
    slide(page, "severity", "ArrowRight")  # 4 was not made
    seen.add(photo.get_attribute("src"))
    assert page.inner_text("#severity-value") == "5"
    slide(page, "severity", "ArrowLeft", "ArrowLeft")
    assert page.inner_text("#severity-value") == "1"
    choose(page, "picture", 1)
    seen.add(photo.get_attribute("src"))
    assert page.inner_text("#status").endswith("second · Contrast, severity 1")
    assert len(seen) == 4
    attention = head_mean_attention(shown.vit, given(shown, 0, 1, 4))[1][0, 1 + 2 * COLS + 3]
    assert says(caption(page, 0, "corrupted"), attention[1:], COLS)

    slide(page, "severity", "ArrowLeft")
    assert page.inner_text("#severity-value") == "clean"
    assert set(pixels(page, 0, "change")[3::4]) == {0}
    assert "nothing changed" in page.inner_text("#change-legend")
    assert figure(page, 0, "clean").locator("img").get_attribute("src") == photo.get_attribute("src")


def test_layers_of_two_models_go_together_and_a_click_on_a_curve_chooses_one(open_page):
    page = open_page()
    where = page.locator(".where")
    assert where.all_inner_texts() == [
        "layer 2 of 2, blocks.1, mean of heads",
        "layer 3 of 3, layers.1.blocks.0, mean of heads",
    ]
    before = pixels(page, 0, "clean")
    slide(page, "layer", "Home")
    assert [text.split(",")[0] for text in where.all_inner_texts()] == ["layer 1 of 2", "layer 1 of 3"]
    assert page.inner_text("#layer-value") == "1 of 3"
    assert pixels(page, 0, "clean") != before
    chart = page.locator("#focus-chart svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    chart.click(position={"x": 0.92 * box["width"], "y": 0.5 * box["height"]})
    assert page.inner_text("#layer-value") == "3 of 3"


def test_a_token_of_swin_attends_within_its_window(open_page):
    page = open_page()
    slide(page, "layer", "Home")
    click_token(page, 6, 1, rows=8, cols=8, model=1)
    alpha = np.array(pixels(page, 1, "clean")).reshape(8, 8, 4)[..., 3]
    expected = np.zeros((8, 8))
    expected[4:, :4] = 255
    np.testing.assert_array_equal(alpha, expected)
    stack = figure(page, 1, "clean").locator(".stack")
    box = stack.bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    assert "outside of its window" in caption(page, 1, "clean")


def test_heads_are_shown_one_by_one(open_page):
    page = open_page()
    mean, curve = caption(page, 0, "clean"), page.inner_html("#focus-chart")
    page.select_option("#head", "1")
    assert "head 2" in page.locator(".where").first.inner_text()
    assert caption(page, 0, "clean") != mean
    assert page.inner_html("#focus-chart") != curve
    page.select_option("#head", "3")
    assert message(page, 0) == "This layer has 2 heads; the mean is shown."
    assert caption(page, 0, "clean") == mean


def test_what_tokens_receive_and_how_far_tap_reaches(open_page, shown):
    page = open_page()
    choose(page, "view", "received")
    received = head_mean_attention(shown.vit, given(shown, 0, 0, 0))[1][0].mean(dim=0)
    assert says(caption(page, 0, "clean"), received[1:], COLS)
    assert figure(page, 0, "clean").locator(".marker").is_hidden()

    choose(page, "view", "reach")
    reach = np.array(measure_dilation(shown.vit, given(shown, 0, 0, 0)).layers[1].by_patch)
    row, col, most = re.match(
        r"Most: row (\d+), column (\d+) \(([\d.]+)\)", caption(page, 0, "clean")
    ).groups()
    assert float(most) == pytest.approx(reach.max(), abs=0.02)
    assert reach[int(row) - 1, int(col) - 1] == pytest.approx(reach.max(), abs=0.02)
    assert message(page, 1) == "No TAP in this model."
    assert figure(page, 1, "clean").locator("canvas").is_hidden()
    assert "widest" in page.inner_text("#heat-legend")

    click_token(page, 0, 0)
    assert page.is_checked('input[name="view"][value="attended"]')


def test_class_token_is_a_button(open_page, shown):
    page = open_page()
    page.click("text=Class token")
    assert page.get_attribute("#tokens button", "aria-pressed") == "true"
    attention = head_mean_attention(shown.vit, given(shown, 0, 0, 0))[1][0, 0]
    assert says(caption(page, 0, "clean"), attention[1:], COLS)
    assert figure(page, 0, "clean").locator(".marker").is_hidden()
    assert message(page, 1) == "No such token in this layer; a patch is shown in its place."


def test_registers_are_not_called_class_token_and_equal_names_are_not_equal_answers(browser, tmp_path):
    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, class_token=False, reg_tokens=1, global_pool="avg", **options
    ).eval()
    torch.nn.init.normal_(model.head.weight, std=30.0)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    picture = Picture("noise", Image.fromarray(pixels), 0)
    conditions = all_conditions(["brightness", "contrast"], [1, 3, 5])
    subject = Subject("registers", model, prepared(32, 32), halves, lambda _output: "crane")
    found = explore([subject], [picture], conditions, detail=LADDER[0])
    answers = [look.answers[0][0] for look in found.looks[0][0]]
    (tmp_path / "page.html").write_bytes(render_explorer(found))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector('#app[aria-busy="false"]')
    assert page.inner_text("#tokens button") == "Prefix token 1"
    assert "class token" not in page.inner_text("main").lower()
    differing = sum(answer != answers[0] for answer in answers[1:])
    assert page.locator(".answer-table .cell.other").count() == differing > 0
    page.close()


def test_curves_measure_and_overlay_follow_their_controls(open_page):
    page = open_page()
    assert page.locator("#focus-chart .series").count() == 4
    assert page.locator("#stability-chart .series").count() == 2
    page.select_option("#measure", "1")
    assert page.inner_text("#focus-title").startswith("Spread: effective number of tokens")
    page.click("summary")
    assert page.locator("#numbers tbody tr").count() == 3
    slide(page, "strength", "Home")
    assert (
        figure(page, 0, "clean").locator("canvas").evaluate("canvas => getComputedStyle(canvas).opacity")
        == "0"
    )


def test_answers_are_those_of_the_model_and_choose_their_condition(open_page, shown):
    page = open_page()
    with torch.no_grad():
        probabilities = [shown.vit(given(shown, 0, 0, place)).softmax(dim=1)[0] for place in (0, 6)]
    names = [["cat", "dog", "bird"][int(row.argmax())] for row in probabilities]
    cell = page.locator('.answer-table.first button[aria-label^="Contrast, severity 5"]')
    assert f"{names[1]}, {100 * probabilities[1].max():.0f} %" in cell.get_attribute("aria-label")
    assert ("≠" in cell.inner_text()) == (names[0] != names[1])
    cell.click()
    assert page.inner_text("#status").endswith("Contrast, severity 5")
    assert page.locator('.answer-table.first [aria-pressed="true"]').inner_text() == cell.inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert names[0] in figure(page, 0, "clean").locator(".answer").inner_text()


def test_touch_on_a_phone_chooses_a_token_and_nothing_runs_over_the_edge(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    stack = figure(page, 0, "clean").locator(".stack")
    stack.scroll_into_view_if_needed()
    box = stack.bounding_box()
    page.touchscreen.tap(box["x"] + 0.05 * box["width"], box["y"] + 0.9 * box["height"])
    assert page.inner_text("#patch") == "Token at row 4, column 1"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_dark_and_light_differ_and_are_readable(open_page):
    def contrast(page, selector):
        colours = page.eval_on_selector(
            selector, "one => [getComputedStyle(one).color, getComputedStyle(document.body).backgroundColor]"
        )
        light = []
        for colour in colours:
            values = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
            linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
            light.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
        return max(light) / min(light), light[1]

    backgrounds = []
    page = open_page()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for selector in ("h1", ".lead", ".eyebrow", ".lead .first"):
            ratio, background = contrast(page, selector)
            assert ratio >= 4.5, (scheme, selector)
        backgrounds.append(background)
    assert backgrounds[0] > 10 * backgrounds[1]


def test_a_thinned_page_says_what_it_shows_instead(open_page):
    page = open_page("thin")
    click_token(page, 0, 0)
    assert message(page, 0) == "The nearest token that is kept is shown."
    assert page.inner_text("#patch") == "Token at row 2, column 2"
    page.select_option("#head", "0")
    assert message(page, 0).startswith("Single heads are not kept here; the mean is shown.")
    contents = page.inner_text("#contents")
    assert (
        "Mean of the heads, corrupted pictures: every 2nd token of every 2nd row can be chosen." in contents
    )
    assert "Single heads, corrupted pictures: left out." in contents
    slide(page, "severity", "Home")
    page.select_option("#head", "mean")
    click_token(page, 0, 0)
    assert page.inner_text("#patch") == "Token at row 1, column 1"


def test_a_damaged_page_says_so(browser, shown):
    text = (shown.folder / "whole.html").read_text(encoding="utf-8")
    broken = shown.folder / "broken.html"
    broken.write_text(re.sub(r'id="data">[^<]{40}', 'id="data">', text), encoding="utf-8")
    page = browser.new_page()
    page.goto(broken.as_uri())
    page.wait_for_selector("#problem:not([hidden])", timeout=5000)
    assert page.inner_text("#problem").startswith("The page could not be shown: ")
    page.close()
