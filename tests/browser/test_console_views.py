"""The console in a browser, at a real server: what it shows, and what can be done there."""

import json

import pytest
from browser_kit import NARROW
from conftest import HOSTILE
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

VIEWS = [
    "#/",
    "#/models/double/2",
    "#/models/broken/1",
    "#/models/check/1",
    "#/errors",
    "#/logs",
    "#/settings",
]


def ask(server, text):
    """Ask the function of values."""
    body = json.dumps({"text": text}).encode()
    return server.ask("POST", "/predictions/check", body, "Content-Type: application/json")


def double(server, rows=1):
    values = {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": [1.0] * 3 * rows}
    answer = server.ask("POST", "/v2/models/double/infer", json.dumps({"inputs": [values]}).encode())
    assert answer.code == 200


def row(browser, name, version=""):
    """The row of a version in the overview."""
    found = [
        each for each in browser.find_all(".models tbody tr:not(.reason)")
        if each.find_element(By.CSS_SELECTOR, ".name a").text == name and version in each.text.split("\n")[0]
    ]  # fmt: skip
    return found[0] if found else None


def test_the_overview_says_what_every_version_does(server, open_console):
    for _ in range(20):
        double(server)
    browser = open_console(server)
    browser.until(lambda: row(browser, "double", "2"))
    assert "Ready" in row(browser, "double", "2").text
    assert "default" in row(browser, "double", "2").text
    assert "default" not in row(browser, "double", "1").text
    assert "1 of 1" in row(browser, "check").text
    assert "Failed" in row(browser, "broken").text
    summary = browser.text(".summary")
    assert "4 of 5" in summary or "5 of 6" in summary
    assert f"http://127.0.0.1:{server.port}" in summary
    assert "1 failed" in browser.text("#server-state")


def test_rates_and_latencies_are_drawn_as_they_come(server, open_console):
    browser = open_console(server)

    def answered():
        double(server)
        shown = row(browser, "double", "2")
        return shown is not None and "ms" in shown.text

    browser.until(answered)
    path = (
        "return document.querySelector('.models tr.ready:not(.idle) .sparkline.rate .line').getAttribute('d')"
    )
    browser.until(lambda: "L" in browser.run(path))


def test_a_failed_model_shows_its_reason_and_its_traceback_in_one_click(server, open_console):
    browser = open_console(server)
    browser.click(".models .reason summary", "no weights <b>here</b>")
    browser.find(".models .reason .traceback", "RuntimeError: no weights")
    assert 'File "' in browser.text(".models .reason .traceback")
    browser.go("#/models/broken/1")
    browser.find(".fault .bad", "no weights <b>here</b>")
    browser.find(".fault .traceback", "in load")


def test_a_failed_request_is_an_error_with_the_traceback_of_its_worker(server, open_console):
    browser = open_console(server, "#/errors")
    assert ask(server, f"fail {HOSTILE}").code == 500
    browser.click(".errors summary", "nothing can be said of")
    browser.find(".errors .traceback", "checks.py")
    assert HOSTILE in browser.text(".errors .traceback")
    assert browser.find(".count").text
    browser.click(".errors a", "check")
    browser.find("h1", "check")
    browser.find("mooring-model .errors summary", "nothing can be said of")


def test_a_hostile_name_and_what_it_prints_are_shown_as_text(server, open_console):
    values = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    path = "/v2/models/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E/infer"
    assert server.ask("POST", path, json.dumps({"inputs": [values]}).encode()).code == 200
    browser = open_console(server)
    browser.click(".models a", HOSTILE)
    browser.find("h1", HOSTILE)
    for view in ("#/logs", "#/errors", "#/"):
        browser.go(view)
        browser.find("main", HOSTILE)
    assert browser.run("return document.querySelectorAll('main img, main b').length") == 0


def test_a_model_is_unloaded_and_loaded_again(server, open_console):
    browser = open_console(server, "#/models/spare/1")
    browser.find(".heading .state", "Ready")
    browser.click("button", "Unload…")
    browser.find("dialog", "Unload spare 1?")
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.find_all("dialog"))
    assert "Ready" in browser.text(".heading .state")
    browser.click("button", "Unload…")
    browser.click("dialog button", "Unload")
    browser.find(".heading .state", "Not loaded")
    assert server.ask("GET", "/v2/models/spare/ready").code != 200
    browser.click("button", "Load")
    browser.find(".heading .state", "Ready")
    assert server.ask("GET", "/v2/models/spare/ready").code == 200


def test_workers_are_scaled(server, open_console):
    browser = open_console(server, "#/models/spare/1")
    for wanted in ("2", "1"):
        browser.click("button", "Scale…")
        browser.fill("dialog input[name=least]", wanted)
        browser.fill("dialog input[name=most]", wanted)
        browser.click("dialog button", "Scale")
        browser.find(".figures", f"{wanted} of {wanted}")


def test_wrong_numbers_of_workers_are_said_in_the_dialog(server, open_console):
    browser = open_console(server, "#/models/spare/1")
    browser.click("button", "Scale…")
    browser.fill("dialog input[name=least]", "3")
    browser.fill("dialog input[name=most]", "2")
    browser.click("dialog button", "Scale")
    browser.find("dialog .error", "at least as large")


def test_another_version_becomes_the_default(server, open_console):
    browser = open_console(server, "#/models/double/1")
    for version in ("1", "2"):
        browser.go(f"#/models/double/{version}")
        browser.click("button", "Make default…")
        browser.click("dialog button", "Make default")
        browser.find(".versions a[aria-current]", f"{version} (default)")


def test_an_archive_that_is_not_there_is_said_in_the_dialog(server, open_console):
    browser = open_console(server)
    browser.expect_error(r"status of 4\d\d")
    browser.click("button", "Register…")
    browser.fill("dialog input[name=url]", "nothing.mar")
    browser.click("dialog button", "Register")
    browser.find("dialog .error", "nothing.mar")


def test_the_log_follows_its_end_and_is_filtered_and_paused(server, open_console):
    browser = open_console(server, "#/logs")
    browser.find(".log p", "model ready")
    Select(browser.find(".toolbar select")).select_by_visible_text("error")
    browser.until(lambda: not browser.find_all(".log p.info"))
    Select(browser.find(".toolbar select")).select_by_visible_text("debug")
    Select(browser.find(".toolbar .field:nth-child(2) select")).select_by_visible_text("spare")
    browser.until(lambda: all("spare" in each.text for each in browser.find_all(".log p")))
    Select(browser.find(".toolbar .field:nth-child(2) select")).select_by_visible_text("all")
    ask(server, "fail once more")
    browser.find(".log p", "fail once more")
    end = "const log = document.querySelector('.log'); return log.scrollHeight - log.scrollTop - log.clientHeight"
    assert browser.run(end) < 30
    browser.click("button", "Pause")
    ask(server, "fail while paused")
    browser.until(lambda: "fail while paused" in server.log)
    assert not browser.find_all(".log p", "fail while paused")
    browser.click("button", "Continue")
    browser.find(".log p", "fail while paused")


def test_settings_are_shown_with_their_sources(server, open_console):
    browser = open_console(server, "#/settings")
    browser.find(".settings .changed", "keep_going")
    assert "--keep-going" in browser.find(".settings .changed", "keep_going").text
    assert not browser.find_all(".settings > div", "job_queue_size")
    browser.click("label", "Also those that have their default")
    browser.find(".settings > div", "job_queue_size")
    browser.fill(".toolbar input", "batch")
    browser.until(lambda: not browser.find_all(".settings > div", "keep_going"))


def test_a_page_is_reached_and_left_by_the_keyboard_alone(server, open_console):
    browser = open_console(server)
    browser.find(".models a", "spare")

    def tab_to(wanted):
        for _ in range(60):
            browser.press(Keys.TAB)
            focused = browser.focused()
            if focused.text.strip() == wanted:
                assert browser.run("return arguments[0].matches(':focus-visible')", focused)
                return
        raise AssertionError(f"no Tab reaches {wanted!r}")

    browser.press(Keys.TAB)
    assert browser.focused().text == "Skip to the content"
    browser.press(Keys.ENTER)
    assert browser.focused().get_attribute("id") == "main"
    tab_to("spare")
    browser.press(Keys.ENTER)
    browser.find("h1", "spare")
    browser.until(lambda: browser.focused().tag_name == "h1")
    browser.find("button", "Unload…")
    tab_to("Unload…")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    tab_to("Unload")
    browser.press(Keys.ENTER)
    browser.find(".heading .state", "Not loaded")
    browser.until(lambda: browser.find_all("button.primary", "Load"))
    browser.run("document.querySelector('h1').focus()")
    tab_to("Load")
    browser.press(Keys.ENTER)
    browser.find(".heading .state", "Ready")
    browser.driver.back()
    browser.find("h1", "Models")


def test_the_focus_stays_in_a_dialog_and_returns(server, open_console):
    browser = open_console(server)
    browser.click("button", "Register…")
    assert browser.focused().get_attribute("name") == "url"
    for _ in range(8):
        browser.press(Keys.TAB)
        inside = browser.run(
            "const at = document.activeElement; return at === document.body || !!at.closest('dialog')"
        )
        assert inside
    browser.press(Keys.ESCAPE)
    browser.until(lambda: browser.focused().text == "Register…")


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_has_a_serious_fault_of_accessibility_or_is_wider_than_its_window(server, open_console, view):
    browser = open_console(server, view)
    browser.find("main h1")
    browser.find("#server-state.failed")
    faults = {}
    for scheme in ("light", "dark"):
        browser.show_as(scheme=scheme)
        faults[scheme] = browser.accessibility_faults()
    browser.show_as(size=NARROW)
    faults["narrow"] = browser.accessibility_faults()
    assert faults == {shown: [] for shown in faults}
    assert browser.overflow() == 0


def test_what_is_kept_of_the_past_is_bounded(server, open_console):
    browser = open_console(server, "#/logs")
    lengths = browser.run(
        """
        const done = import(document.querySelector("script").src.replace("app.js", "store.js"));
        return done.then(({ store, POINTS, LINES }) => {
          const model = store.state.models[0];
          for (let second = 0; second < 3 * POINTS; second++) store.receive("state", store.state);
          const last = store.lines.at(-1).id;
          const line = (id) => ({ ...store.lines[0], id, message: `line ${id}` });
          for (let id = 1; id <= 3 * LINES; id++) store.receive("log", { lines: [line(last + id)] });
          const error = { id: 0, time: 1, model: "", version: "", request_id: "", message: "", traceback: "", count: 1 };
          for (let id = 1e6; id < 1e6 + 300; id++) store.receive("error", { ...error, id });
          return [store.history(model.name, model.version).rate.length, store.lines.length,
            document.querySelectorAll(".log p").length, store.errors.length];
        });
        """
    )
    assert lengths == [120, 500, 500, 100]


@pytest.mark.parametrize(
    "name",
    ["a-very-long-name-" * 12, "نموذج-" * 20, "\N{ROCKET}" * 60],
    ids=["long", "right to left", "emoji"],
)
def test_no_name_makes_the_overview_wider_than_its_window(server, open_console, name):
    browser = open_console(server)
    browser.find(".models")
    browser.run(
        """
        const [name] = arguments;
        return import(document.querySelector("script").src.replace("app.js", "store.js")).then(({ store }) => {
          const [model] = store.state.models;
          const state = { ...store.state, models: [{ ...model, name, version: name }, ...store.state.models] };
          const receive = store.receive.bind(store);
          store.receive = (type) => receive(type === "state" ? type : "", state);
          store.receive("state");
        });
        """,
        name,
    )
    browser.find(".models .name a", name[:5])
    assert browser.overflow() == 0
    browser.show_as(size=NARROW)
    assert browser.overflow() == 0
