// What is asked: the panes of the try-it form. A pane: { id, title, root, read(), fail(message), close() }.
//
// `read` returns { inputs } (tensors; or a `body` as it was typed), { json }, { body, contentType } or { fields }. It throws a
// FormError where something does not fit. `fail` shows an error of the server. Both are shown beside their field.

import { element, input, select, smallButton } from "./dom.js";
import { bytes, shapeText } from "./format.js";
import { indentJson, parseJson } from "./json-text.js";
import { initialJson, toField } from "./schema-fields.js";
import { area, findNamed, growingList, labelled, makeWidget, showValue, tag } from "./schema-form.js";
import { checkCount, DATATYPES, fitShape, nest, parseShape, randomValues, readValues, sizeOf, writeNumbers, writeV2 } from "./tensor-values.js";

const MOST = 10_000; // elements that are made without being asked for

export class FormError extends Error {}

/** The panes for a model, the one that fits it best first. */
export function makePanes({ description = {}, inputs = [], values, examples }) {
	const { content_type: type = "", body = "" } = examples?.predictions ?? {};
	const json = /json/.test(type);
	if (values) {
		const form = schemaPane(values.request, inputs, json ? body : "");
		const [{ content_type: type = "" } = {}, ...others] = inputs;
		if (type.startsWith("image/")) return [...(others.length ? [] : [filePane("image/*")]), form, jsonPane(form)];
		return [form, jsonPane(form), ...(others.length || type ? [] : [filePane()])];
	}
	const tensors = inputs.length ? tensorPane(inputs, examples?.v2?.inputs ?? []) : freePane();
	if (inputs.length) return [tensors, jsonPane(tensors), filePane()];
	const raw = [textPane("Text", json ? "" : body, "text/plain; charset=utf-8"), textPane("JSON", json ? body : "{}", "application/json"), filePane(type), fieldsPane()];
	raw.unshift(...raw.splice(json ? 1 : type.startsWith("text/") ? 0 : 2, 1));
	return ["tensors", "chain", "ensemble"].includes(description.kind) ? [tensors, ...raw] : raw;
}

// A pane, whose `collect(problems)` returns what is sent.
function pane(title, children, collect, more = {}) {
	const read = () => {
		const problems = [];
		const sent = collect(problems);
		for (const { widget, text } of problems) widget.fail(text);
		if (!problems.length) return sent;
		const { root } = problems[0].widget;
		(root.querySelector("[aria-invalid]") ?? root.querySelector("input, textarea, select"))?.focus();
		throw new FormError(problems.length > 1 ? `${problems.length} fields do not fit.` : "A field does not fit: the reason is beside it.");
	};
	return { title, root: element("div.try-pane", children), collect, read, fail() {}, close() {}, ...more };
}

function schemaPane(schema, inputs, example) {
	const whole = toField(schema);
	// A function of one input takes it by its name, or alone: the form has its name.
	const field = whole.options?.find((each) => each.kind === "object" && String(each.fields.map(({ name }) => name)) === String(inputs.map(({ name }) => name))) ?? whole;
	const widget = makeWidget(field, field.kind === "object" ? "" : "Body");
	widget.write(parseJson(example || initialJson(field)));
	return pane("Form", widget.root, (problems) => ({ json: widget.read(problems) ?? "null" }), {
		json: true, show: (value) => showValue(widget, value), fail: (message) => findNamed(widget, message)?.fail(message),
	});
}

function tensorPane(specs, examples) {
	const find = (tensors, name) => tensors.find((each) => each.name === name);
	const rows = specs.map((spec) => tensorRow(spec, find(examples, spec.name)));
	return pane("Tensors", rows.map((each) => each.root), (problems) => ({ inputs: rows.map((each) => each.read(problems)).filter(Boolean) }), {
		tensors: true,
		show(value) {
			const known = Array.isArray(value?.inputs) && value.inputs.every(({ name, shape }) => Array.isArray(shape) && find(specs, name));
			if (known) for (const row of rows) row.write(find(value.inputs, row.name));
			return known;
		},
		fail: (message) => rows.find((each) => message.includes(`'${each.name}'`))?.fail(message),
	});
}

function tensorRow({ name, datatype: type, shape: declared, optional }, example) {
	const choice = type ? null : labelled("Datatype", select(DATATYPES.map((each) => [each])));
	const shape = labelled("Shape", input());
	const values = labelled("Values", area(1), { text: "Lists as JSON, or numbers with commas between them. Of BYTES a text, or a list of texts." });
	const sent = optional ? element("input", { type: "checkbox" }) : null;
	const datatype = () => type || choice.control.value;
	const tags = [type || "any datatype", declared ? shapeText(declared) : "any shape"];
	const fill = () => {
		const sizes = parseShape(shape.control.value).map(Math.abs);
		values.control.value = writeData({ shape: sizes, data: randomValues(datatype(), sizeOf(sizes)) }, datatype());
		values.control.dispatchEvent(new Event("input", { bubbles: true }));
	};
	const parts = element("div.try-fields", element("div.try-row", choice?.root, shape.root), values.root,
		element("div", smallButton("Random values", fill)));
	const root = element("fieldset.try-group", element("legend", name, tags.map(tag)),
		sent && element("label.check", sent, "Send this optional input"), parts);
	const show = () => (parts.hidden = sent !== null && !sent.checked);
	const readTyped = () => {
		const found = readValues(values.control.value, datatype());
		return { found, sizes: fitShape(declared, parseShape(shape.control.value), found.shape) };
	};
	root.addEventListener("change", show);
	values.control.addEventListener("input", () => {
		try {
			shape.control.value = readTyped().sizes.join(", ");
		} catch {
			// said when it is sent
		}
	});
	const write = (tensor) => {
		if (sent) sent.checked = Boolean(tensor);
		if (choice && tensor?.datatype) choice.control.value = tensor.datatype;
		if (tensor) {
			shape.control.value = tensor.shape.join(", ");
			values.control.value = writeData(tensor, datatype());
		}
		show();
	};
	const read = (problems) => {
		if (sent && !sent.checked) return null;
		try {
			const { found, sizes } = readTyped();
			checkCount(sizeOf(found.shape), sizes);
			return { name, datatype: datatype(), declared: Boolean(type), shape: sizes, json: found.json, nested: String(found.shape) === String(sizes) };
		} catch (error) {
			problems.push({ widget: values, text: error.message });
			return null;
		}
	};
	const sizes = (declared ?? [1]).map((size, at) => (size >= 0 ? size : at ? 3 : 1));
	shape.control.value = sizes.join(", ");
	if (sizeOf(sizes) <= MOST) fill();
	write(example);
	return { root, name, read, write, fail: values.fail };
}

function writeData({ data = [], shape }, datatype) {
	const flat = !Array.isArray(data[0]) && sizeOf(shape) === data.length;
	if (datatype === "BYTES" && data.length === 1 && /^(?!\s*[["])/.test(data[0])) return data[0];
	const json = JSON.stringify(flat ? nest(data, shape.length ? shape : [1]) : data);
	return indentJson(writeNumbers(json, datatype));
}

/** The JSON of another pane, in step with it. */
function jsonPane(form) {
	const box = labelled("Body", area(8));
	const note = element("p.try-hint", { role: "status" });
	box.root.append(note);
	const copy = () => {
		const problems = [];
		const { json, inputs } = form.collect(problems);
		if (!problems.length) box.control.value = indentJson(json ?? writeV2(inputs));
		note.textContent = "";
		box.fail("");
	};
	for (const type of ["input", "change", "click"]) form.root.addEventListener(type, copy);
	box.control.addEventListener("input", () => {
		const value = readJsonIn(box, []);
		note.textContent = value === undefined || form.show(value) ? "" : "The form cannot show this; it is sent as it is.";
	});
	copy();
	const { json, tensors, fail } = form;
	return pane("JSON", box.root, (problems) => (json ? { json: box.control.value.trim() } : readV2(box, problems)), { json, tensors, fail });
}

/** A request of a model that declares no inputs. */
function freePane() {
	const box = labelled("Body", area(8), { text: "The model declares no inputs: name them as its code does." });
	box.control.value = indentJson(writeV2([{ name: "x", datatype: "FP32", shape: [1, 3], json: "[[1, 2, 3]]" }]));
	return pane("Tensors", box.root, (problems) => readV2(box, problems), { tensors: true });
}

// The inputs of a typed request, so that lines of code can name them.
function readV2(box, problems) {
	const value = readJsonIn(box, problems);
	const known = (value?.inputs ?? []).map(({ name, datatype, shape = [], data }) => {
		const found = readValues(JSON.stringify(data ?? []), datatype);
		return { name, datatype, shape, json: writeNumbers(found.json, datatype), declared: false, nested: String(found.shape) === String(shape) };
	});
	return { body: box.control.value.trim(), inputs: known.length ? known : null, parameters: value?.parameters };
}

function readJsonIn(box, problems) {
	try {
		return parseJson(box.control.value);
	} catch (error) {
		problems.push({ widget: box, text: `no JSON: ${error.message}` });
	}
}

function textPane(title, text, contentType) {
	const box = labelled(title, area(4));
	const type = labelled("Content type", input({ value: contentType }));
	box.control.value = text;
	return pane(title, [box.root, type.root], (problems) => {
		if (title === "JSON") readJsonIn(box, problems);
		return { body: box.control.value, contentType: type.control.value };
	});
}

/** A file as the body: chosen, dropped or pasted; an image is shown. */
function filePane(wanted = "") {
	const title = wanted.startsWith("image/") ? "Image" : "File";
	const box = labelled(title, element("input", { type: "file", accept: title === "Image" && "image/*" }), { text: "Choose a file, drop one here, or paste one." });
	const type = labelled("Content type", input({ value: wanted.includes("*") ? "" : wanted }));
	const shown = element("figure.try-preview", { hidden: true });
	const drop = element("div.try-drop", box.root, shown);
	let file = null;
	let url = "";
	const close = () => URL.revokeObjectURL(url);
	const choose = ([chosen]) => {
		if (!chosen) return;
		close();
		file = chosen;
		box.fail("");
		const numpy = /\.(np[yz])$/i.exec(file.name);
		type.control.value = numpy ? `application/x-${numpy[1].toLowerCase()}` : file.type || "application/octet-stream";
		url = file.type.startsWith("image/") ? URL.createObjectURL(file) : "";
		shown.replaceChildren(...(url ? [element("img", { src: url, alt: `Preview of ${file.name}` })] : []), element("figcaption", `${file.name}, ${bytes(file.size)}`));
		shown.hidden = false;
	};
	box.control.addEventListener("change", () => choose(box.control.files));
	for (const kind of ["dragover", "dragleave", "drop"]) {
		drop.addEventListener(kind, (event) => {
			event.preventDefault();
			drop.classList.toggle("over", kind === "dragover");
			if (kind === "drop") choose(event.dataTransfer.files);
		});
	}
	const made = pane(title, [drop, type.root], (problems) => {
		if (!file) problems.push({ widget: box, text: "no file is chosen yet" });
		return { body: file, contentType: type.control.value };
	}, { close });
	made.root.addEventListener("paste", (event) => choose(event.clipboardData.files));
	return made;
}

function fieldsPane() {
	const list = growingList("Add a field", (value = "") => {
		const row = { name: labelled("Name", input({ value })), text: labelled("Text", area(1)), file: labelled("or a file", element("input", { type: "file" })) };
		return { ...row, root: element("div.try-row", Object.values(row).map((each) => each.root)) };
	});
	list.fill(["data"]);
	return pane("Form fields", list.root, (problems) => ({
		fields: list.rows.map(({ name, text, file }) => {
			if (!name.control.value) problems.push({ widget: name, text: "the field needs a name" });
			return [name.control.value, file.control.files[0] ?? text.control.value];
		}),
	}));
}
