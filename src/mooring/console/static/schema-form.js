// The form of a JSON Schema: an element for every field of schema-fields.js, which reads as JSON and can be given a value.
//
// A widget: { root, path, read(problems), write(value), fail(text) }. `read` returns JSON, undefined where the field is
// left out, and adds { widget, text } to the problems where what was typed does not fit.

import { element, setAttribute, setText } from "./dom.js";
import { parseJson } from "./json-text.js";
import { accepts, initialJson, readScalar, titleOf } from "./schema-fields.js";

let ids = 0;
/** An id that no other element of the page has. */
export const newId = () => `try-${++ids}`;

/** A label with its control, what is said of it, and a place for its error. */
export function labelled(label, control, { text = "", tags = [], more = [] } = {}) {
  control.id ||= newId();
  const hint = text ? element("p", { class: "try-hint", id: newId() }, text) : null;
  const error = element("p", { class: "try-error", id: newId(), hidden: true });
  setAttribute(control, "aria-describedby", [hint?.id, error.id].filter(Boolean).join(" "));
  const root = element(
    "div",
    { class: "field try-field" },
    element("div", { class: "try-label" }, element("label", { for: control.id }, label), ...tags.map(tag), ...more),
    hint,
    control,
    error,
  );
  return { root, control, fail: (said) => showError(error, control, said) };
}

const tag = (text) => element("span", { class: "tag" }, text);

function showError(error, control, said) {
  setText(error, said);
  error.hidden = !said;
  setAttribute(control, "aria-invalid", said ? "true" : null);
}

/** A group with a legend, and a place for its error. */
function grouped(label, { text = "", tags = [], more = [] }, ...children) {
  const error = element("p", { class: "try-error", hidden: true });
  const root = element(
    "fieldset",
    { class: "try-group" },
    element("legend", {}, label, ...tags.map(tag)),
    more.length ? element("div", { class: "try-label" }, ...more) : null,
    text ? element("p", { class: "try-hint" }, text) : null,
    ...children,
    error,
  );
  return { root, fail: (said) => showError(error, root, said) };
}

/** The widget of a field. */
export function makeWidget(field, label = field.name || "Value") {
  const modes = [];
  if (!field.required) modes.push(["out", field.hasDefault ? `default: ${shorten(field.fallback)}` : "left out"]);
  if (field.nullable) modes.push(["null", "null"]);
  let mode = null;
  const more = [];
  if (modes.length) {
    const options = [["value", "send"], ...modes].map(([value, text]) => element("option", { value }, text));
    mode = element("select", { class: "try-mode", "aria-label": `${label}: what is sent` }, ...options);
    more.push(mode);
  }
  const widget = KINDS[field.kind](field, label, { text: field.text, tags: describe(field), more });
  const show = () => {
    for (const node of widget.parts) node.hidden = mode !== null && mode.value !== "value";
    widget.fail("");
  };
  mode?.addEventListener("change", show);
  widget.root.addEventListener("input", () => widget.fail(""));
  return {
    ...widget,
    path: field.path,
    read(problems) {
      if (mode?.value === "out") return undefined;
      if (mode?.value === "null") return "null";
      return widget.read(problems);
    },
    write(value) {
      if (mode) {
        mode.value = value === undefined && !field.required ? "out" : value === null && field.nullable ? "null" : "value";
        if (mode.value === "value") widget.write(value);
        else if (field.kind !== "object" || field.fields.length) widget.write(parseJson(initialJson(field)) ?? undefined);
        show();
      } else widget.write(value);
    },
  };
}

const shorten = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);

function describe(field) {
  const { schema, kind } = field;
  if (kind === "choice" || kind === "either") return [];
  const found = [schema.format && kind === "text" ? schema.format : titleOf({ ...field, title: "" })];
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (low !== undefined) found.push(`${schema.minimum === undefined ? "> " : "≥ "}${low}`);
  if (high !== undefined) found.push(`${schema.maximum === undefined ? "< " : "≤ "}${high}`);
  return found;
}

const KINDS = {
  text: (field, label, said) => scalar(field, label, said, element("textarea", { rows: "1", spellcheck: "false" })),
  integer: (field, label, said) => scalar(field, label, said, element("input", { type: "text", inputmode: "numeric" })),
  number: (field, label, said) => scalar(field, label, said, element("input", { type: "text", inputmode: "decimal" })),
  boolean: (field, label, said) => pick(["false", "true"], label, said),
  choice: (field, label, said) => pick(field.choices, label, said),
  json: jsonWidget,
  file: fileWidget,
  object: objectWidget,
  tuple: tupleWidget,
  list: listWidget,
  either: eitherWidget,
};

// Reads by a function that throws where what was typed does not fit.
function reading(box, read) {
  const widget = {
    ...box,
    parts: [box.control],
    read(problems) {
      try {
        box.fail("");
        return read();
      } catch (error) {
        problems.push({ widget, text: error.message });
        return "null";
      }
    },
  };
  return widget;
}

function scalar(field, label, said, control) {
  const widget = reading(labelled(label, control, said), () => readScalar(field, control.value));
  widget.write = (value) => (control.value = value === undefined || value === null ? "" : String(value));
  return widget;
}

// A select of values that are known, each as JSON.
function pick(choices, label, said) {
  const control = element("select", {}, ...choices.map((json) => element("option", { value: json }, readable(json))));
  const widget = reading(labelled(label, control, said), () => control.value);
  widget.write = (value) => (control.value = value === undefined ? choices[0] : JSON.stringify(value));
  return widget;
}

const readable = (json) => (json[0] === '"' ? JSON.parse(json) || '""' : json);

function jsonWidget(field, label, said) {
  const control = element("textarea", { rows: "2", spellcheck: "false" });
  const widget = reading(labelled(label, control, said), () => {
    parseJson(control.value);
    return control.value.trim();
  });
  widget.write = (value) => (control.value = value === undefined ? initialJson(field) : JSON.stringify(value));
  return widget;
}

// A file whose bytes go into the JSON as base64; the text can be pasted as well.
function fileWidget(field, label, said) {
  const control = element("textarea", { rows: "1", spellcheck: "false", placeholder: "base64" });
  const file = element("input", { type: "file", "aria-label": `${label}: file` });
  if (field.schema.contentMediaType?.startsWith("image/")) file.accept = "image/*";
  file.addEventListener("change", () => {
    const reader = new FileReader();
    reader.onload = () => {
      control.value = reader.result.slice(reader.result.indexOf(",") + 1);
      control.dispatchEvent(new Event("input", { bubbles: true }));
    };
    if (file.files[0]) reader.readAsDataURL(file.files[0]);
  });
  const box = labelled(label, control, said);
  control.before(file);
  const widget = reading(box, () => JSON.stringify(control.value.trim()));
  widget.parts.push(file);
  widget.write = (value) => (control.value = value ?? "");
  return widget;
}

function objectWidget(field, label, said) {
  const widgets = field.fields.map((each) => makeWidget(each));
  const inside = element("div", { class: "try-fields" }, ...widgets.map((each) => each.root));
  const group = field.path === "" && !label ? { root: inside, fail() {} } : grouped(label, said, inside);
  return {
    ...group,
    parts: [inside],
    below: () => widgets,
    read(problems) {
      const members = widgets.flatMap((each, at) => {
        const json = each.read(problems);
        return json === undefined ? [] : [`${JSON.stringify(field.fields[at].name)}: ${json}`];
      });
      return `{${members.join(", ")}}`;
    },
    write(value) {
      widgets.forEach((each, at) => each.write(value?.[field.fields[at].name]));
    },
  };
}

function tupleWidget(field, label, said) {
  const widgets = field.items.map((each) => makeWidget(each));
  const inside = element("div", { class: "try-fields" }, ...widgets.map((each) => each.root));
  return {
    ...grouped(label, said, inside),
    parts: [inside],
    below: () => widgets,
    read: (problems) => `[${widgets.map((each) => each.read(problems)).join(", ")}]`,
    write: (value) => widgets.forEach((each, at) => each.write(value?.[at])),
  };
}

function listWidget(field, label, said) {
  let items = [];
  const list = element("ul", { class: "try-items" });
  const add = element("button", { type: "button", class: "small" }, "Add an item");
  const inside = element("div", {}, list, add);
  const widget = { ...grouped(label, said, inside), parts: [inside], below: () => items };
  const changed = () => inside.dispatchEvent(new Event("input", { bubbles: true }));
  const append = (value) => {
    const item = makeWidget(field.item, `Item ${items.length + 1}`);
    item.write(value);
    const remove = element("button", { type: "button", class: "small", "aria-label": `Remove item ${items.length + 1} of ${label}` }, "Remove");
    const row = element("li", {}, item.root, remove);
    remove.addEventListener("click", () => {
      items = items.filter((each) => each !== item);
      row.remove();
      add.focus();
      changed();
    });
    items.push(item);
    list.append(row);
    return item;
  };
  add.addEventListener("click", () => {
    append(parseJson(initialJson(field.item)));
    list.lastElementChild.querySelector("input, textarea, select")?.focus();
    changed();
  });
  widget.read = (problems) => {
    if (items.length < field.fewest) problems.push({ widget, text: `at least ${field.fewest} items are needed` });
    if (items.length > field.most) problems.push({ widget, text: `at most ${field.most} items are allowed` });
    return `[${items.map((each) => each.read(problems)).join(", ")}]`;
  };
  widget.write = (value) => {
    items = [];
    list.replaceChildren();
    for (const each of value ?? []) append(each);
  };
  return widget;
}

function eitherWidget(field, label, said) {
  let inner = null;
  const which = element("select", { "aria-label": `${label}: kind of value` });
  which.append(...field.options.map((each, at) => element("option", { value: String(at) }, titleOf(each))));
  const place = element("div", {});
  const inside = element("div", { class: "try-fields" }, which, place);
  const choose = (at, value) => {
    which.value = String(at);
    inner = makeWidget({ ...field.options[at], required: true, nullable: false, text: "" }, label);
    inner.write(value);
    place.replaceChildren(inner.root);
  };
  which.addEventListener("change", () => choose(Number(which.value), parseJson(initialJson(field.options[which.value]))));
  choose(0, parseJson(initialJson(field.options[0])));
  const group = grouped(label, said, inside);
  return {
    ...group,
    parts: [inside],
    below: () => [inner],
    read: (problems) => inner.read(problems),
    write(value) {
      const given = value === undefined ? parseJson(initialJson(field)) : value;
      const at = field.options.findIndex((each) => accepts(each, given));
      choose(Math.max(at, 0), given);
    },
  };
}

/** The widget that an error of the server names, the innermost one; null where it names none. */
export function findNamed(widget, message) {
  for (const each of widget.below?.() ?? []) {
    const found = each && findNamed(each, message);
    if (found) return found;
  }
  const path = widget.path?.replace(/\[\]/g, "[0]");
  if (!path) return null;
  const name = path.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${name}(?![\\w.[])|['"]${name}['"]`).test(message) ? widget : null;
}
