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
	made.append(...content.flat().filter((child) => child !== null && child !== undefined && child !== false));
	return made;
}

function isAttributes(value) {
	return typeof value === "object" && value !== null && !(value instanceof Node) && !Array.isArray(value);
}

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
	if (value === null || value === undefined || value === false) {
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

/** A text that can be copied by a button beside it. */
export function copyButton(text, label = "Copy") {
	const copy = button(label, async () => {
		const done = await writeClipboard(typeof text === "function" ? text() : text);
		setText(copy, done ? "Copied" : "Not copied");
		setTimeout(() => setText(copy, label), 1500);
	}, { class: "small" });
	return copy;
}

async function writeClipboard(text) {
	try {
		await navigator.clipboard.writeText(text);
		return true;
	} catch {
		return false; // not over plain HTTP on another host, and not without leave
	}
}
