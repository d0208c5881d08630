// The Server-Timing of an answer: read, and shown as a table whose rows have bars.

import { element, svgElement } from "./dom.js";

const LABELS = {
  queue: "Queue",
  batch: "Batch",
  model: "Model",
  encode: "Encode",
  total: "Total",
};

/** The entries of a Server-Timing header: { name, duration (ms, or null), text }. */
export function readServerTiming(header) {
  const entries = [];
  const entry = /\s*([!#$%&'*+.^_`|~\w-]+)((?:\s*;\s*[\w-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^,;\s]*))*)\s*(?:,|$)/gy;
  for (const [, name, parameters] of header.matchAll(entry)) {
    const found = { name, duration: null, text: "" };
    for (const [, key, quoted, plain] of parameters.matchAll(/;\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^,;\s]*))/g)) {
      const value = quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1");
      if (key === "dur" && value !== "" && Number.isFinite(Number(value))) found.duration = Number(value);
      if (key === "desc") found.text = value;
    }
    entries.push(found);
  }
  return entries;
}

/**
 * Where the bar of every entry begins and how long it is, in parts of the longest time: 0 to 1. One after the other
 * where the parts of the total follow each other, as those of a single model do; else all from the start.
 */
export function placeBars(entries) {
  const duration = (each) => each.duration ?? 0;
  const parts = entries.filter((each) => each.name !== "total" && each.duration !== null);
  const total = entries.find((each) => each.name === "total")?.duration ?? null;
  const sum = parts.reduce((all, each) => all + each.duration, 0);
  const inOrder = total === null || sum <= total * 1.01 + 0.01;
  const whole = Math.max(total ?? 0, inOrder ? sum : 0, ...entries.map(duration)) || 1;
  let start = 0;
  return entries.map((each) => {
    const part = each.name !== "total" && inOrder;
    const bar = { start: part ? start / whole : 0, length: duration(each) / whole };
    if (part) start += duration(each);
    return bar;
  });
}

/** The name of an entry for people: "model", or "scale.model" of a node. */
export function labelOf(name) {
  const at = name.lastIndexOf(".");
  const step = name.slice(at + 1);
  const label = LABELS[step] ?? step;
  return at < 0 ? label : `${name.slice(0, at)}: ${label.toLowerCase()}`;
}

/** The table of the entries of a header; null where it has none. */
export function timingTable(header) {
  const entries = readServerTiming(header ?? "");
  if (!entries.length) return null;
  const bars = placeBars(entries);
  const rows = entries.map((each, at) => {
    const step = each.name.slice(each.name.lastIndexOf(".") + 1);
    return element(
      "tr",
      { class: each.name === "total" ? "total" : null },
      element("th", { scope: "row" }, labelOf(each.name), each.text ? element("span", { class: "muted" }, ` ${each.text}`) : null),
      element("td", { class: "try-bar" }, bar(bars[at], step in LABELS ? step : "other")),
      element("td", { class: "number" }, each.duration === null ? "–" : each.duration.toFixed(each.duration < 10 ? 2 : 1)),
    );
  });
  return element(
    "table",
    { class: "try-timings" },
    element("caption", { class: "visually-hidden" }, "Where the time of the answer went"),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("th", { scope: "col" }, "Step"),
        element("th", { scope: "col", class: "try-bar" }, element("span", { class: "visually-hidden" }, "Bar")),
        element("th", { scope: "col", class: "number" }, "Milliseconds"),
      ),
    ),
    element("tbody", {}, ...rows),
  );
}

function bar({ start, length }, step) {
  const picture = svgElement("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const width = Math.max(length * 1000, 2);
  const x = Math.min(start * 1000, 1000 - width);
  picture.append(svgElement("rect", { class: "ground", width: 1000, height: 10 }));
  picture.append(svgElement("rect", { class: step, x, width, height: 10 }));
  return picture;
}
