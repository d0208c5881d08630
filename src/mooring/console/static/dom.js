// Elements and their text. Whatever comes from the server reaches the page as text or as an attribute's value here,
// and never as markup.

/**
 * A new element: `element("p.muted", {title: "…"}, "a text", node)`. Attributes may be left out. One whose value is a
 * function is a listener ("onclick"); true is an empty attribute, and null, undefined and false leave one out. Children
 * are nodes or texts, or lists of them; null and false are left out.
 */
export function element(tag, ...content) {
	const [name, ...classes] = tag.split(".");
	const made = document.createElement(name);
	if (classes.length) made.className = classes.join(" ");
	for (const [key, value] of Object.entries(isAttributes(content[0]) ? content.shift() : {})) {
		if (typeof value === "function") made.addEventListener(key.slice(2), value);
		else setAttribute(made, key, value);
	}
	made.append(...content.flat().filter((child) => child != null && child !== false));
	return made;
}

const isAttributes = (value) => value?.constructor === Object;

/** A button that does this when it is pressed. */
export function button(text, act, attributes = {}) {
	return element("button", { type: "button", onclick: act, ...attributes }, text);
}

/** A new element of SVG, with attributes only. */
export function svgElement(tag, attributes = {}) {
	const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
	for (const [name, value] of Object.entries(attributes)) setAttribute(made, name, value);
	return made;
}

/** Give an element this text. Nothing is written where it has it already, so that a second's update stays cheap. */
export function setText(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

/** Give an element this attribute, or take it away (null, undefined, false). */
export function setAttribute(node, name, value) {
	if (value == null || value === false) {
		if (node.hasAttribute(name)) node.removeAttribute(name);
		return;
	}
	const text = value === true ? "" : String(value);
	if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** The address of a version's page. */
export function modelHref(name, version) {
	return `#/models/${encodeURIComponent(name)}/${encodeURIComponent(version)}`;
}

let ids = 0;
export const newId = () => `id-${++ids}`;

/** A field of one line, which no browser fills in or corrects. */
export const input = (attributes) => element("input", { type: "text", spellcheck: "false", autocomplete: "off", ...attributes });

/** A list to choose from: [[value, text]]; a text may be left out where it is the value. */
export const select = (values, attributes = {}) =>
	element("select", attributes, values.map(([value, text = value]) => element("option", { value }, text)));

export const smallButton = (text, act) => button(text, act, { class: "small" });

/** A button that copies a text. */
export function copyButton(text) {
	const copy = smallButton("Copy", async () => {
		try {
			await navigator.clipboard.writeText(text);
			setText(copy, "Copied");
		} catch {
			setText(copy, "Not copied"); // not over plain HTTP on another host, and not without leave
		}
		setTimeout(() => setText(copy, "Copy"), 1500);
	});
	return copy;
}
