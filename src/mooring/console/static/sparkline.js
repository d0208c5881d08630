// A line of the last two minutes: newest at the right, null is a gap. Beside it stands the number, so it is hidden from
// screen readers.

import { svgElement, setAttribute } from "./dom.js";
import { POINTS } from "./store.js";

const HEIGHT = 24;

export class Sparkline {
	/** The element to put somewhere. `kind` ("rate" or "latency") is its color. */
	constructor(kind) {
		this.node = svgElement("svg", {
			class: `sparkline ${kind}`, viewBox: `0 0 ${POINTS} ${HEIGHT}`, preserveAspectRatio: "none",
			"aria-hidden": "true", focusable: "false",
		});
		this.area = svgElement("path", { class: "area" });
		this.line = svgElement("path", { class: "line" });
		this.node.append(this.area, this.line);
	}

	/** Draw these values, at most POINTS of them, from 0 to the largest; that one. */
	draw(values) {
		const top = values.reduce((most, value) => Math.max(most, value ?? 0), 0);
		const first = POINTS - values.length;
		let line = "";
		let area = "";
		let start = null;
		let x = 0;
		const close = () => {
			if (start !== null) area += `L${x} ${HEIGHT}H${start}Z`;
			start = null;
		};
		values.forEach((value, index) => {
			if (value === null) return close();
			x = round((first + index) * (POINTS / (POINTS - 1)));
			const point = `${start === null ? "M" : "L"}${x} ${round(HEIGHT - 1.5 - (top ? (value / top) * (HEIGHT - 3) : 0))}`;
			line += point;
			area += point;
			start ??= x;
		});
		close();
		setAttribute(this.line, "d", line || "M0 0");
		setAttribute(this.area, "d", area || "M0 0");
		return top;
	}
}

function round(value) {
	return Math.round(value * 10) / 10;
}
