// Parts that several views are made of.

import { element, setAttribute, setText } from "./dom.js";

const looks = new WeakMap();

/** Replace what is in a node by what `make()` returns, if `key` has changed since the last time. */
export function renew(node, key, make) {
	const look = JSON.stringify(key);
	if (looks.get(node) === look) return;
	looks.set(node, look);
	node.replaceChildren(...make().filter(Boolean));
}

/** A part of a page with a heading, hidden at first. Its `body` is to be filled. */
export function card(title, ...content) {
	const body = element("div", content);
	return Object.assign(element("section.card", { hidden: true }, element("h2", title), body), { body });
}

/** A traceback, or another long text of a program. */
export function listing(text, label = "Traceback") {
	return element("pre.traceback", { tabindex: "0", role: "region", "aria-label": label }, text);
}

/**
 * Children of a node that stay as long as their item does. `make(item)` gives {nodes, draw(item, before)}; `before` is the
 * item above.
 */
export class KeyedList {
	#made = new Map();

	constructor(parent, keyOf, make) {
		Object.assign(this, { parent, keyOf, make });
	}

	draw(items) {
		const wanted = new Map(items.map((item) => [this.keyOf(item), item]));
		for (const [key, { nodes }] of this.#made) {
			if (wanted.has(key)) continue;
			for (const node of nodes) node.remove();
			this.#made.delete(key);
		}
		let place = this.parent.firstElementChild;
		let before = null;
		for (const [key, item] of wanted) {
			if (!this.#made.has(key)) this.#made.set(key, this.make(item));
			const made = this.#made.get(key);
			made.draw(item, before);
			before = item;
			for (const node of made.nodes) {
				if (node === place) place = place.nextElementSibling;
				else this.parent.insertBefore(node, place);
			}
		}
	}
}

/** A table with these heads; "*" before a head is a column of numbers. */
export function table(heads, rows) {
	return element("div.scroll", element("table",
		element("thead", element("tr", heads.map((head) =>
			element("th", { scope: "col", class: head.startsWith("*") && "number" }, head.replace("*", ""))))),
		element("tbody", rows)));
}

/** Named figures in a row, each with a line below it. `labels` are texts by their keys. */
export class Figures {
	#parts = {};

	constructor(labels) {
		this.node = element("dl.figures", Object.entries(labels).map(([key, label]) => {
			const main = element("dd");
			const note = element("dd.note");
			this.#parts[key] = { main, note };
			return element("div", element("dt", label), main, note);
		}));
	}

	set(key, text, note = "", look = null) {
		const { main, note: below } = this.#parts[key];
		setText(main, text);
		setAttribute(main, "class", look);
		setText(below, note);
		setAttribute(below, "title", note || null);
	}
}
