// Tabs, of which the arrow keys choose one.

import { element } from "./dom.js";
import { newId } from "./schema-form.js";

/** Tabs over panels ({ title, root }): { node, current }. `onChoose` is called when another one is shown. */
export function makeTabs(label, panels, onChoose = () => {}) {
  const tabs = panels.map(({ title, root }, at) => {
    const tab = element("button", { type: "button", role: "tab", id: newId(), onclick: () => choose(at) }, title);
    const body = element("div", { role: "tabpanel", id: newId(), "aria-labelledby": tab.id }, root);
    tab.setAttribute("aria-controls", body.id);
    return { tab, body };
  });
  const list = element("div", { role: "tablist", "aria-label": label, class: "try-tabs" }, tabs.map((each) => each.tab));
  const made = { node: element("div", {}, list, tabs.map((each) => each.body)), current: null };
  const show = (chosen) => {
    made.current = panels[chosen];
    tabs.forEach(({ tab, body }, at) => {
      tab.setAttribute("aria-selected", String(at === chosen));
      tab.tabIndex = at === chosen ? 0 : -1;
      body.hidden = at !== chosen;
    });
  };
  const choose = (at) => {
    show(at);
    onChoose();
  };
  list.addEventListener("keydown", (event) => {
    const at = panels.indexOf(made.current);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(next % tabs.length);
    tabs[next % tabs.length].tab.focus();
  });
  show(0);
  return made;
}
