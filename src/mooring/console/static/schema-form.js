// The form of a JSON Schema: a widget for every field of schema-fields.js.
//
// A widget: { root, path, read(problems), write(value), fail(text) }. `read` returns JSON, undefined where the field is left
// out, and adds { widget, text } to the problems where what was typed does not fit.

import { button, element, input, newId, select, setAttribute, setText, smallButton } from "./dom.js";
import { parseJson } from "./json-text.js";
import { describe, initialJson, isObject, readScalar } from "./schema-fields.js";

export const tag = (text) => element("span.tag", text);
export const area = (rows, more = {}) => element("textarea", { rows, spellcheck: "false", ...more });

/** A label with its control, a hint, and a place for its error: { root, control, fail(text) }. */
export function labelled(label, control, { text = "", beside = [] } = {}) {
	control.id ||= newId();
	const hint = text && element("p.try-hint", { id: newId() }, text);
	const error = element("p.try-error", { id: newId(), hidden: true });
	setAttribute(control, "aria-describedby", `${hint ? hint.id : ""} ${error.id}`.trim());
	const head = element("div.try-label", element("label", { for: control.id }, label), beside);
	return failing({ root: element("div.field.try-field", head, hint || null, control, error), control }, error, control);
}

// Shows an error until something is typed.
function failing(box, error, control = null) {
	const fail = (said) => {
		setText(error, said);
		error.hidden = !said;
		if (control) setAttribute(control, "aria-invalid", said ? "true" : null);
	};
	box.root.addEventListener("input", () => fail(""));
	return Object.assign(box, { fail });
}

/** Rows that are added and removed: { root, rows, fill(values) }. `make(value, number)` returns a row, { root }. */
export function growingList(adding, make) {
	const list = element("ul.try-items");
	const changed = () => list.dispatchEvent(new Event("input", { bubbles: true }));
	const add = (value) => {
		const row = make(value, made.rows.length + 1);
		const item = element("li", row.root, smallButton("Remove", () => {
			made.rows.splice(made.rows.indexOf(row), 1);
			item.remove();
			adder.focus();
			changed();
		}));
		made.rows.push(row);
		list.append(item);
	};
	const adder = smallButton(adding, () => {
		add();
		list.lastChild.querySelector("input, textarea, select").focus();
		changed();
	});
	const made = { root: element("div", list, adder), rows: [] };
	made.fill = (values) => {
		made.rows.length = 0;
		list.replaceChildren();
		values.forEach(add);
	};
	return made;
}

/** Tabs over panels ({ title, root }): { node, current }. `onChoose` is called when another one is shown. */
export function makeTabs(label, panels, onChoose = () => {}) {
	const tabs = panels.map(({ title, root }, at) => {
		const tab = button(title, () => choose(at), { role: "tab", id: newId() });
		const body = element("div", { role: "tabpanel", id: newId(), "aria-labelledby": tab.id }, root);
		tab.setAttribute("aria-controls", body.id);
		return { tab, body };
	});
	const list = element("div", { role: "tablist", "aria-label": label, class: "try-tabs" }, tabs.map((each) => each.tab));
	const made = { node: element("div", list, tabs.map((each) => each.body)), current: null };
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
		const next = { ArrowRight: at + 1, ArrowLeft: at - 1 + tabs.length }[event.key];
		if (next === undefined) return;
		event.preventDefault();
		choose(next % tabs.length);
		tabs[next % tabs.length].tab.focus();
	});
	show(0);
	return made;
}

export function makeWidget(field, label = field.name || "Value") {
	const { schema, required, nullable } = field;
	const known = "default" in schema ? JSON.stringify(schema.default) : "";
	const ways = [["value", "send"]];
	if (!required) ways.push(["out", known ? `default: ${known.length > 24 ? `${known.slice(0, 23)}…` : known}` : "left out"]);
	if (nullable) ways.push(["null"]);
	const way = ways.length > 1 ? select(ways, { class: "try-way", "aria-label": `${label}: what is sent` }) : null;
	const tags = field.kind === "choice" ? [] : [tag(describe(field))];
	const widget = KINDS[field.kind](field, label, tags, way);
	const show = () => {
		widget.root.classList.toggle("off", way !== null && way.value !== "value");
		widget.fail("");
	};
	way?.addEventListener("change", show);
	const { read, write } = widget;
	const start = initialJson({ ...field, schema: { ...schema, default: schema.default ?? undefined } });
	return Object.assign(widget, {
		path: field.path,
		read(problems) {
			if (way?.value === "out") return undefined;
			return way?.value === "null" ? "null" : read(problems);
		},
		write(value) {
			if (way) way.value = value === undefined && !required ? "out" : value === null && nullable ? "null" : "value";
			write(value ?? parseJson(start));
			show();
		},
	});
}

const KINDS = {
	text: (...all) => scalar(area(1), ...all),
	integer: (...all) => scalar(input({ inputmode: "numeric" }), ...all),
	number: (...all) => scalar(input({ inputmode: "decimal" }), ...all),
	boolean: (field, ...all) => pick(["false", "true"], field, ...all),
	choice: (field, ...all) => pick(field.choices, field, ...all),
	object: objectWidget,
	json: jsonWidget,
	file: fileWidget,
	list: listWidget,
	either: eitherWidget,
};

// A widget of one control. `read` gives JSON, and throws where what was typed does not fit.
function single(control, { schema }, label, tags, way, read, write) {
	const widget = labelled(label, control, { text: schema.description, beside: [...tags, way] });
	return Object.assign(widget, {
		write,
		read(problems) {
			try {
				return read();
			} catch (error) {
				problems.push({ widget, text: error.message });
				return "null";
			}
		},
	});
}

function scalar(control, field, ...all) {
	return single(control, field, ...all, () => readScalar(field, control.value), (value) => (control.value = String(value)));
}

function pick(choices, ...all) {
	const control = select(choices.map((json) => [json, json[0] === '"' ? JSON.parse(json) || json : json]));
	return single(control, ...all, () => control.value, (value) => (control.value = JSON.stringify(value)));
}

function jsonWidget(...all) {
	const control = area(2);
	const read = () => (parseJson(control.value), control.value.trim());
	return single(control, ...all, read, (value) => (control.value = JSON.stringify(value)));
}

function fileWidget(field, label, ...all) {
	const control = area(1, { placeholder: "base64" });
	const file = element("input", { type: "file", "aria-label": `${label}: file` });
	const reader = new FileReader();
	reader.onload = () => {
		control.value = reader.result.slice(reader.result.indexOf(",") + 1);
		control.dispatchEvent(new Event("input", { bubbles: true }));
	};
	file.addEventListener("change", () => file.files[0] && reader.readAsDataURL(file.files[0]));
	const widget = single(control, field, label, ...all, () => JSON.stringify(control.value.trim()), (value) => (control.value = value));
	control.before(file);
	return widget;
}

function grouped({ schema }, label, tags, way, inside) {
	const error = element("p.try-error", { hidden: true });
	const hint = schema.description && element("p.try-hint", schema.description);
	return failing({ root: element("fieldset.try-group", element("legend", label, tags), way, hint, inside, error) }, error);
}

function objectWidget(field, label, ...all) {
	const widgets = field.fields.map((each) => makeWidget(each));
	const inside = element("div.try-fields", widgets.map((each) => each.root));
	return Object.assign(label ? grouped(field, label, ...all, inside) : { root: inside, fail() {} }, {
		below: () => widgets,
		write: (value) => widgets.forEach((each, at) => each.write({ __proto__: null, ...value }[field.fields[at].name])),
		read(problems) {
			const members = widgets.map((each, at) => [JSON.stringify(field.fields[at].name), each.read(problems)]);
			return `{${members.filter(([, json]) => json !== undefined).map((each) => each.join(": ")).join(", ")}}`;
		},
	});
}

function listWidget(field, label, ...all) {
	const { minItems = 0, maxItems = Infinity } = field.schema;
	const list = growingList("Add an item", (value, number) => {
		const item = makeWidget(field.item, `Item ${number}`);
		item.write(value);
		return item;
	});
	const widget = grouped(field, label, ...all, list.root);
	return Object.assign(widget, {
		below: () => list.rows,
		write: list.fill,
		read(problems) {
			const { length } = list.rows;
			if (length < minItems || length > maxItems) problems.push({ widget, text: `${minItems} to ${maxItems} items are needed` });
			return `[${list.rows.map((each) => each.read(problems)).join(", ")}]`;
		},
	});
}

function eitherWidget(field, label, ...all) {
	let inner = null;
	const kind = select(field.options.map((each, at) => [String(at), each.schema.title ?? describe(each)]), { "aria-label": `${label}: kind of value` });
	const place = element("div");
	const choose = (at, value) => {
		kind.value = String(at);
		inner = makeWidget({ ...field.options[at], required: true }, label);
		inner.write(value);
		place.replaceChildren(inner.root);
	};
	kind.addEventListener("change", () => choose(kind.value, parseJson(initialJson(field.options[kind.value]))));
	return Object.assign(grouped(field, label, ...all, element("div.try-fields", kind, place)), {
		below: () => [inner],
		read: (problems) => inner.read(problems),
		write: (value) => choose(Math.max(field.options.findIndex((each) => showValue(makeWidget(each), value)), 0), value),
	});
}

/** Give a widget a value, and return whether it can show it: reads as the same again. */
export function showValue(widget, value) {
	const problems = [];
	try {
		widget.write(value);
		return inOrder(parseJson(widget.read(problems))) === inOrder(value) && !problems.length;
	} catch {
		return false;
	}
}

const inOrder = (value) => JSON.stringify(value, (_, each) => (isObject(each) ? Object.fromEntries(Object.entries(each).sort()) : each));

/** The innermost widget that an error of the server names; null where it names none. */
export function findNamed(widget, message) {
	for (const each of widget.below?.() ?? []) {
		const found = findNamed(each, message);
		if (found) return found;
	}
	const name = widget.path?.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
	return name && new RegExp(`^(the input )?['"\`]?${name}(?![\\w.[])|['"\`]${name}['"\`]`).test(message) ? widget : null;
}
