// The answer of a model: its tensors, JSON, text, image or pieces. Whatever it holds is shown as text.

import { answerFile } from "./code-lines.js";
import { copyButton, element, setText, smallButton } from "./dom.js";
import { bytes } from "./format.js";
import { indentJson, parseJson, visibleText } from "./json-text.js";
import { tag } from "./schema-form.js";
import { nest, sizeOf, writeNumbers } from "./tensor-values.js";

const MOST_SHOWN = 20_000; // characters
const MOST_ROWS = 20;
const MOST_COLUMNS = 32;

// It scrolls by the keyboard, too.
export const textBox = (label, text = "", more = "") =>
	element("pre", { class: `traceback try-text ${more}`, dir: "ltr", tabindex: "0", role: "region", "aria-label": label }, text);

const tools = (...buttons) => element("div.try-tools", buttons);

/** A text, cut where it is long, with buttons for all of it. `save` is the name of its file. */
export function textBlock(text, label, save = "answer.txt") {
	const cut = text.length > MOST_SHOWN;
	const box = textBox(label, visibleText(cut ? text.slice(0, MOST_SHOWN) : text) + (cut ? "…" : ""));
	const all = cut && smallButton(`Show all ${text.length.toLocaleString("en")} characters`, () => {
		box.textContent = visibleText(text);
		all.remove();
		box.focus();
	});
	return element("div", box, tools(copyButton(text), all, saveButton(save, () => new Blob([text]))));
}

export function saveButton(name, make, text = "Download") {
	return smallButton(text, () => {
		const url = URL.createObjectURL(make());
		element("a", { href: url, download: name }).click();
		setTimeout(() => URL.revokeObjectURL(url), 10_000);
	});
}

/** What an error's body says, in the words of whichever protocol it is of. */
export function errorText(text) {
	try {
		const { message, error, detail } = JSON.parse(text);
		return [message, error, detail].find((each) => typeof each === "string") ?? text;
	} catch {
		return text;
	}
}

/** The parts that show a whole answer; `text` is null where it is none. `keep` is told of object URLs, for their end. */
export function answerParts(blob, type, text, labels, keep) {
	if (/^image\//.test(type)) {
		const url = URL.createObjectURL(blob);
		keep(url);
		return [element("figure.try-preview", element("img", { src: url, alt: "The image that the model answered" })),
			tools(saveButton(answerFile(type), () => blob))];
	}
	if (text === null) return [element("p", `${bytes(blob.size)} that are no text.`), tools(saveButton("answer.bin", () => blob))];
	if (!text) return [element("p.muted", "The answer is empty.")];
	let value;
	try {
		value = /json/.test(type) ? parseJson(text) : undefined;
	} catch {
		// shown as text
	}
	if (value === undefined) return [textBlock(text, "Answer")];
	const whole = () => textBlock(indentJson(text), "Answer as JSON", "answer.json");
	if (!Array.isArray(value?.outputs) || !value.outputs.every((each) => each?.datatype && Array.isArray(each.shape))) return [whole()];
	const details = element("details", element("summary", "Whole answer as JSON"));
	details.addEventListener("toggle", () => details.append(whole()), { once: true });
	return [...value.outputs.map((each) => tensorPart(each, labels)), details];
}

function tensorPart({ name, datatype, shape, data = [], parameters }, labels) {
	const heading = element("h4", name, [datatype, `[${shape.join(", ")}]`].map(tag));
	const part = (content) => element("section.try-output", heading, content);
	const flat = Array.isArray(data) ? data.flat(Infinity) : [data];
	if (datatype === "BYTES" && parameters?.content_type === "application/json") return part(textBlock(flat.map((each) => indentJson(String(each))).join("\n"), name, `${name}.json`));
	if (datatype === "BYTES" && flat.length === 1) return part(textBlock(String(flat[0]), name, `${name}.txt`));
	const columns = shape.at(-1) ?? 1;
	const table = shape.length <= 2 && columns <= MOST_COLUMNS && flat.length <= MOST_ROWS * columns;
	if (table && flat.length && flat.length === sizeOf(shape)) return part(tensorTable(name, flat, columns, labels));
	const json = JSON.stringify(flat.length && flat.length === sizeOf(shape) ? nest(flat, shape) : data);
	return part(textBlock(indentJson(writeNumbers(json, datatype)), name, `${name}.json`));
}

function tensorTable(name, flat, columns, labels) {
	const number = typeof flat[0] === "number" && "number";
	const cells = (tag, values, more) => values.map((value) => element(tag, { class: number, dir: "ltr", ...more }, visibleText(String(value))));
	const heads = labels?.length === columns ? labels : [...Array(columns).keys()];
	const rows = Array.from({ length: flat.length / columns }, (_, at) =>
		element("tr", element("th", { scope: "row" }, String(at)), cells("td", flat.slice(at * columns, (at + 1) * columns))));
	return element("div.scroll", { tabindex: "0", role: "region", "aria-label": `Output ${name}` }, element("table",
		element("thead", element("tr", element("th", { scope: "col" }, "Row"), cells("th", heads, { scope: "col" }))), element("tbody", rows)));
}

/** The pieces of a streamed answer as they come: server-sent events, or chunks of text. */
export class PieceView {
	count = 0;
	error = "";
	#rest = "";
	#text = "";
	#box = textBox("Pieces of the answer");
	node = element("div", this.#box);

	constructor(events) {
		this.events = events;
	}

	add(text) {
		if (this.events) {
			const blocks = (this.#rest + text).split(/\r?\n\r?\n/);
			this.#rest = blocks.pop();
			for (const block of blocks) this.#addEvent(block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n").trim());
		} else if (text) {
			this.count++;
			this.#text += text;
		}
		setText(this.#box, visibleText(this.#text.length > MOST_SHOWN ? `…${this.#text.slice(-MOST_SHOWN)}` : this.#text));
		this.#box.scrollTop = this.#box.scrollHeight;
	}

	#addEvent(data) {
		if (!data) return;
		try {
			const { model_name, model_version, id, parameters, ...outputs } = parseJson(data);
			const [only, ...others] = Object.values(outputs);
			if (typeof outputs.error === "string" && !model_name) this.error = outputs.error;
			else this.#text += typeof only === "string" && !others.length ? only : `${JSON.stringify(others.length ? outputs : only)}\n`;
		} catch {
			this.#text += `${data}\n`;
		}
		this.count++;
	}

	end() {
		if (this.#text) this.node.append(tools(copyButton(this.#text), saveButton("answer.txt", () => new Blob([this.#text]))));
	}
}
