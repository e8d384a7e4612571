"""The dashboard in a real browser, against a whole farm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import BrowserContext, Page, expect

from farm.client.jobs import wait_for_job
from tests.e2e.conftest import PATIENCE_MS, Complaints
from tests.support.farm import RunningFarm

PAGES = ("/create", "/queue", "/gallery", "/networks", "/networks/ink", "/models", "/models/extract", "/batches",
         "/batches/new", "/workers",
         "/search?q=ink", "/login")  # fmt: skip
RENDER_MS = 240_000


@pytest.fixture(scope="module")
def picture(farm: RunningFarm) -> str:
    """The id of a finished picture with two adapters."""
    with farm.client() as client:
        asked = {"prompt": "a boat on the sea, <lora:ink:0.2@1,0.9@4> <lora:gold:0.5>", "steps": 6, "seed": 7}
        done = wait_for_job(client, client.submit(asked)["id"], timeout_seconds=RENDER_MS / 1000)
    assert done["state"] == "succeeded", done["error"]
    return str(done["images"][0]["id"])


def tags_of(page: Page) -> str:
    return page.locator("#prompt").input_value()


def slide(page: Page, label: str, value: float) -> None:
    """Set a slider as a drag does, with one event a change."""
    page.get_by_label(label, exact=True).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})) }",
        value,
    )


def test_a_picture_from_the_click_on_a_card_to_its_settings_used_again(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a house and a tree")
    page.locator(".net[value=ink]").click()
    assert tags_of(page) == "a house and a tree, <lora:ink:1>, ink style"
    page.locator("#steps").fill("6")
    expect(page.locator("#estimate-head")).to_contain_text("for one picture")
    pictures = page.locator("#last .last-grid a")
    earlier = ", ".join(f"[href='{link.get_attribute('href')}']" for link in pictures.all())
    page.get_by_role("button", name="Queue").click()
    expect(page.locator(".toast")).to_contain_text("Queued")
    # the same page shows it running, then finished, without being asked again
    newest = page.locator(f"#last .last-grid a:not({earlier or 'br'})")
    expect(newest.first).to_be_visible(timeout=RENDER_MS)
    newest.first.click()
    expect(page).to_have_url(re.compile(r"/images/"))
    expect(page.locator(".prompt")).to_contain_text("<lora:ink:1>")
    page.get_by_role("link", name="Reuse settings").click()
    expect(page.locator("#prompt")).to_have_value("a house and a tree, <lora:ink:1>, ink style")
    expect(page.locator("#steps")).to_have_value("6")


def test_a_second_click_takes_tag_and_words_out_again(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a fox")
    card = page.locator(".net[value=neon]")
    card.click()
    expect(card).to_have_attribute("aria-pressed", "true")
    card.click()
    expect(card).to_have_attribute("aria-pressed", "false")
    assert tags_of(page) == "a fox"


def test_text_and_graphics_are_one_value(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a fox <lora:ink:0.5>")
    slide(page, "Strength of ink", 0.8)
    assert tags_of(page) == "a fox <lora:ink:0.8>"
    card = page.locator(".adapter")
    card.get_by_role("button", name="blocks").click()
    slide(page, "Text encoder of ink", 0.3)
    assert tags_of(page) == "a fox <lora:ink:te=0.3:unet=0.8>"
    slide(page, "Middle of the denoiser of ink", 0)
    assert tags_of(page) == "a fox <lora:ink:te=0.3:unet=0.8:mid=0>"
    page.locator("#prompt").fill("a fox <lora:ink:0.1@1,0.6@6>")
    expect(card.locator(".strength .number")).to_have_value("0.1 → 0.6")
    card.get_by_role("button", name="curve").click()
    card.locator(".dot").nth(1).press("ArrowUp")
    assert tags_of(page) == "a fox <lora:ink:0.1@1,0.65@6>"
    card.get_by_role("switch").uncheck()
    assert tags_of(page) == "a fox"
    card.get_by_role("switch").check()
    assert tags_of(page) == "a fox, <lora:ink:0.1@1,0.65@6>"


def test_what_each_step_gets_is_drawn(page: Page) -> None:
    page.goto("/create")
    page.locator("#steps").fill("12")
    page.locator("#prompt").fill("a fox <lora:ink:0.1@1,0.6@6> <lora:gold:0.5>")
    rows = page.locator("#strip .cells")
    expect(rows).to_have_count(2)
    expect(rows.first.locator("i")).to_have_count(12)
    expect(rows.first.locator("i").nth(4)).to_have_attribute("title", "step 5: 0.1")
    expect(rows.first.locator("i").nth(5)).to_have_attribute("title", "step 6: 0.6")


def test_a_mistake_is_told_where_it_stands(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a fox <lora:inc:0.8> in the snow")
    expect(page.locator("#prompt-problems")).to_contain_text("'ink'")
    expect(page.locator("#prompt-marks u")).to_have_text("inc")
    page.locator("#prompt").fill("a fox")
    expect(page.locator("#prompt-problems")).to_be_empty()
    page.locator("#steps").fill("100000")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")


def test_names_are_completed_while_a_tag_is_typed(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").press_sequentially("a fox <lora:bl")
    expect(page.locator("#suggestions li")).to_have_text(re.compile("blueprint"))
    page.keyboard.press("Enter")
    assert tags_of(page).startswith("a fox <lora:blueprint:")


def test_a_draft_survives_a_reload(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a fox that was never queued")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a fox that was never queued")


def test_a_job_is_pinned_to_workers_in_a_fold_of_the_form(page: Page) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a fox")
    expect(page.locator("#min_memory")).not_to_be_visible()
    page.locator("#where summary").click()
    page.locator("#min_memory").fill("80 GX")
    expect(page.locator("#where .problem")).to_contain_text("is no amount of memory")
    page.locator("#min_memory").fill("80000GB")
    page.locator("#worker_tags").fill("H100, studio")
    expect(page.locator("#where .problem")).to_have_count(0)
    expect(page.locator("#estimate")).to_have_text("no worker with 80000 GB tagged h100 and studio is up")
    page.get_by_role("button", name="Queue").click()
    page.locator("#last .mini").first.click()
    expect(page.locator(".spec").last).to_have_text("Only on a worker with 80000 GB tagged h100 and studio.")
    page.get_by_role("link", name="Reuse settings").click()
    expect(page.locator("#worker_tags")).to_have_value("h100 studio")
    expect(page.locator("#min_memory")).to_have_value("80TB")
    page.go_back()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".head .state")).to_contain_text("cancelled")


def test_a_dropped_picture_brings_its_settings(page: Page, context: BrowserContext, picture: str) -> None:
    data = context.request.get(f"/api/v1/images/{picture}/content?stream=true").body()
    page.goto("/create")
    transfer = page.evaluate_handle(
        """async (bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "boat.png", {type: "image/png"}));
            return transfer;
        }""",
        list(data),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#prompt")).to_have_value(re.compile("a boat on the sea"))
    expect(page.locator("#seed")).to_have_value("7")


def test_a_file_that_is_no_adapter_is_refused_in_a_sentence(
    page: Page, complaints: Complaints, bad_file: Path
) -> None:
    page.goto("/networks")
    page.set_input_files("#upload input[type=file]", bad_file)
    row = page.locator("#uploads li")
    expect(row.locator(".problem")).to_contain_text("save the file again with the safetensors library")
    expect(row).to_contain_text("holiday.safetensors")
    expect(row).to_contain_text("not accepted")
    complaints.forgive("status of 4")


def test_two_networks_become_one_that_draws(page: Page, farm: RunningFarm) -> None:
    page.goto("/models")
    page.get_by_role("link", name="Extract LoRA").first.click()
    page.locator("#pick-search").fill("gold")
    expect(page.locator(".pick:visible")).to_have_count(1)
    page.get_by_label("Strength of gold").fill("0.6")
    page.locator("#pick-search").fill("ink")
    # what is chosen stays in sight
    expect(page.locator(".pick:visible")).to_have_count(2)
    page.locator(".pick", has_text="ink").get_by_role("checkbox").check()
    page.get_by_text("Energy", exact=True).click()
    page.get_by_label("Share to keep").fill("0.95")
    page.get_by_label("Name of the new network").fill("ink and gold")
    page.get_by_role("button", name="Extract").click()
    expect(page).to_have_url(re.compile(r"/jobs/job_"))
    result = page.locator("[aria-labelledby=made-title]")
    expect(result).to_be_visible(timeout=RENDER_MS)
    expect(result).to_contain_text("Relative error")
    result.get_by_role("link", name="ink and gold").click()
    expect(page.locator("h1")).to_contain_text("ink and gold")
    expect(page.get_by_text("modelspec.merged_from")).to_be_attached()
    with farm.client() as client:
        asked = {"prompt": "a boat <lora:ink and gold:1>", "steps": 2}
        done = wait_for_job(client, client.submit(asked)["id"], timeout_seconds=RENDER_MS / 1000)
        client.delete("/loras/ink and gold")
    assert done["state"] == "succeeded", done["error"]


def test_a_batch_with_a_mistake_is_refused_row_by_row_and_then_accepted(
    page: Page, complaints: Complaints
) -> None:
    page.goto("/batches/new")
    page.locator("#rows").fill("prompt,seed,steps\na fox,1,4\nan owl <lora:nope:1>,2,4")
    page.get_by_role("button", name="Queue all").click()
    expect(page.locator(".failure-list tbody tr")).to_have_count(1)
    expect(page.locator(".failure-list")).to_contain_text("nope")
    complaints.forgive("status of 422")
    page.locator("#rows").fill("prompt,seed,steps\na fox,1,4\nan owl,2,4")
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_text("2 jobs, 2 pictures, 8 steps")).to_be_visible()
    page.get_by_role("button", name="Queue all").click()
    expect(page).to_have_url(re.compile(r"/batches/batch_"))
    expect(page.locator(".tiles img")).to_have_count(2, timeout=RENDER_MS)


def test_a_star_stays(page: Page, picture: str) -> None:
    page.goto(f"/images/{picture}")
    star = page.get_by_role("button", name="Star")
    with page.expect_response(lambda answer: answer.request.method == "PATCH"):
        star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.goto("/gallery?starred=true")
    expect(page.locator(f"#shot-{picture}")).to_be_visible()


def test_everything_that_matters_works_without_scripts(context: BrowserContext, farm: RunningFarm) -> None:
    plain = context.browser.new_context(java_script_enabled=False, base_url=farm.url)  # type: ignore[union-attr]
    plain.set_default_timeout(PATIENCE_MS)
    page = plain.new_page()
    page.goto("/create")
    page.locator("#key").fill(farm.api_key)
    page.get_by_role("button", name="Log in").click()
    page.locator("#prompt").fill("a fox")
    page.locator(".net[value=ink]").click()
    expect(page.locator("#prompt")).to_have_value("a fox, <lora:ink:1>, ink style")
    page.locator("#steps").fill("99999")
    page.get_by_role("button", name="Queue").click()
    expect(page.locator(".problem")).to_be_visible()
    page.locator("#steps").fill("4")
    page.get_by_role("button", name="Queue").click()
    expect(page).to_have_url(re.compile(r"/jobs/job_"))
    plain.close()


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("path", PAGES)
def test_pages_are_accessible_in_both_themes(page: Page, picture: str, path: str, theme: str) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.goto(path)
    expect(page.locator("#main")).to_be_visible()
    found = Axe().run(page)
    serious = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
    assert not serious, found.generate_report()


def test_a_picture_and_its_job_are_accessible(page: Page, picture: str) -> None:
    for path in (f"/images/{picture}", None):
        if path:
            page.goto(path)
        else:
            page.get_by_role("link", name="its job").click()
        found = Axe().run(page)
        serious = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
        assert not serious, found.generate_report()


@pytest.mark.parametrize("path", [*PAGES, "/images", "/jobs"])
def test_nothing_scrolls_sideways_on_a_phone(page: Page, farm: RunningFarm, picture: str, path: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    if path == "/images":
        path = f"/images/{picture}"
    if path == "/jobs":
        path = f"/jobs/{farm.client().get('/images/' + picture)['job']}"
    page.goto(path)
    if path == "/create":
        page.locator("#prompt").fill(
            "a fox <lora:ink:te=0.5:unet=0.2@1,0.9@6:in=0.4:out=1.2> <lora:gold:0.7>"
        )
        page.locator(".adapter").first.get_by_role("button", name="curve").click()
        expect(page.locator("#strip .cells").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_lost_connection_is_told(page: Page, context: BrowserContext, complaints: Complaints) -> None:
    page.goto("/queue")
    expect(page.locator("html[data-link=live]")).to_be_attached()
    context.set_offline(True)
    expect(page.locator(".lost")).to_be_visible()
    context.set_offline(False)
    expect(page.locator("html[data-link=live]")).to_be_attached()
    complaints.forgive("ERR_")


def test_a_paused_queue_says_so_and_goes_on(page: Page, farm: RunningFarm) -> None:
    page.goto("/queue")
    page.get_by_role("button", name="Pause the queue").click()
    banner = page.locator(".paused")
    expect(banner).to_contain_text("The queue is paused")
    with farm.client() as client:
        try:
            client.submit({"prompt": "a patient owl", "steps": 2})
            row = page.locator(".waits tr", has_text="a patient owl")
            # the page hears of the job by itself
            expect(row).to_contain_text("the queue is paused by an operator")
            expect(row).to_contain_text("not known")
            page.get_by_text("Pause one…").click()
            expect(page.get_by_label("Model or user")).to_be_visible()
            page.locator("h1").click()
            expect(page.get_by_label("Model or user")).to_be_hidden()
            page.get_by_role("button", name="Resume").click()
            expect(banner).to_have_count(0)
            expect(row).to_have_count(0, timeout=RENDER_MS)
        finally:
            client.post("/queue:resume", {"kind": "queue"})
