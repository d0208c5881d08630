// The Server-Timing of an answer: read, and shown as a table whose rows have bars.

import { element, svgElement } from "./dom.js";

const STEPS = ["queue", "batch", "model", "encode", "total"];

/** The entries of a Server-Timing header: { name, duration (ms, or null), text }. */
export function readServerTiming(header) {
	const entries = (header ?? "").match(/([^,"]|"[^"]*")+/g) ?? [];
	return entries.map((entry) => {
		const [, duration = null] = /;\s*dur=([\d.]+)/.exec(entry) ?? [];
		return { name: entry.split(";")[0].trim(), duration: duration && Number(duration), text: /;\s*desc="?([^";]*)/.exec(entry)?.[1] ?? "" };
	});
}

/** Where each bar begins and ends, from 0 to 1: the steps of one model one after the other, those of nodes from 0. */
export function placeBars(entries) {
	const inOrder = !entries.some((each) => each.name.includes("."));
	const sum = entries.reduce((all, each) => all + (each.name === "total" ? 0 : each.duration), 0);
	const whole = Math.max(inOrder && sum, ...entries.map((each) => each.duration)) || 1;
	let start = 0;
	return entries.map(({ name, duration }) => {
		const begin = inOrder && name !== "total" ? start / whole : 0;
		start += duration;
		return [begin, begin + duration / whole];
	});
}

/** The table of the entries of a header; null where it has none. */
export function timingTable(header) {
	const entries = readServerTiming(header);
	if (!entries.length) return null;
	const bars = placeBars(entries);
	const rows = entries.map(({ name, duration, text }, at) => element("tr", { class: name === "total" && "total" },
		element("th", { scope: "row" }, name[0].toUpperCase() + name.slice(1), text && element("span.muted", ` ${text}`)),
		element("td.try-bar", drawBar(bars[at], name.split(".").pop())),
		element("td.number", duration === null ? "–" : duration.toFixed(duration < 10 ? 2 : 1))));
	const head = (text, more, hidden) => element("th", { scope: "col", class: more }, hidden ? element("span.visually-hidden", text) : text);
	return element("table.try-timings",
		element("caption.visually-hidden", "Where the time of the answer went"),
		element("thead", element("tr", head("Step"), head("Bar", "try-bar", true), head("Milliseconds", "number"))),
		element("tbody", rows));
}

function drawBar([begin, end], step) {
	const picture = svgElement("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
	const width = Math.max((end - begin) * 1000, 2);
	picture.append(svgElement("rect", { class: "ground", width: 1000, height: 10 }),
		svgElement("rect", { class: STEPS.includes(step) && step, x: Math.min(begin * 1000, 1000 - width), width, height: 10 }));
	return picture;
}
