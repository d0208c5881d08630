// The Server-Timing of an answer: read, and shown as a table whose rows have bars.

import { element, svgElement } from "./dom.js";

const STEPS = ["queue", "batch", "model", "encode", "total"];
const stepOf = (name) => name.slice(name.lastIndexOf(".") + 1);

/** The entries of a Server-Timing header: { name, duration (ms, or null), text }. */
export function readServerTiming(header) {
  const quoted = '"(?:[^"\\\\]|\\\\.)*"';
  const entries = (header ?? "").match(new RegExp(`(?:[^",]|${quoted})+`, "g")) ?? [];
  return entries.map((entry) => {
    const [name, ...parameters] = entry.match(new RegExp(`(?:[^";]|${quoted})+`, "g")).map((each) => each.trim());
    const given = Object.fromEntries(parameters.map((each) => each.split(/\s*=\s*(.*)/s)));
    const duration = given.dur ? Number(given.dur) : NaN;
    return { name, duration: Number.isFinite(duration) ? duration : null, text: (given.desc ?? "").replace(/^"|"$/g, "").replace(/\\(.)/g, "$1") };
  });
}

/**
 * Where each bar begins and how long it is, in parts of the longest time. One after the other where the steps make up the
 * total, as those of a single model do; else all from the start.
 */
export function placeBars(entries) {
  const total = entries.find((each) => each.name === "total")?.duration ?? 0;
  const sum = entries.reduce((all, each) => all + (each.name === "total" ? 0 : each.duration), 0);
  const inOrder = !total || sum <= total * 1.01 + 0.01;
  const whole = Math.max(total, inOrder ? sum : 0, ...entries.map((each) => each.duration)) || 1;
  let start = 0;
  return entries.map(({ name, duration }) => {
    const bar = { start: inOrder && name !== "total" ? start / whole : 0, length: duration / whole };
    start += duration;
    return bar;
  });
}

/** The table of the entries of a header; null where it has none. */
export function timingTable(header) {
  const entries = readServerTiming(header);
  if (!entries.length) return null;
  const bars = placeBars(entries);
  const rows = entries.map(({ name, duration, text }, at) => element("tr", { class: name === "total" && "total" },
    element("th", { scope: "row" }, name[0].toUpperCase() + name.slice(1), text && element("span", { class: "muted" }, ` ${text}`)),
    element("td", { class: "try-bar" }, drawBar(bars[at], stepOf(name))),
    element("td", { class: "number" }, duration === null ? "–" : duration.toFixed(duration < 10 ? 2 : 1))));
  const head = (text, more, hidden) => element("th", { scope: "col", class: more }, hidden ? element("span", { class: "visually-hidden" }, text) : text);
  return element("table", { class: "try-timings" },
    element("caption", { class: "visually-hidden" }, "Where the time of the answer went"),
    element("thead", {}, element("tr", {}, head("Step"), head("Bar", "try-bar", true), head("Milliseconds", "number"))),
    element("tbody", {}, rows));
}

function drawBar({ start, length }, step) {
  const picture = svgElement("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const width = Math.max(length * 1000, 2);
  picture.append(
    svgElement("rect", { class: "ground", width: 1000, height: 10 }),
    svgElement("rect", { class: STEPS.includes(step) && step, x: Math.min(start * 1000, 1000 - width), width, height: 10 }));
  return picture;
}
