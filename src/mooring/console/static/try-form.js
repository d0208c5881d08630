// What is asked: the panes of the try-it form. A pane: { id, title, root, read(), fail(message), close() }.
//
// `read` returns what is sent, { kind: "tensors" | "json" | "bytes" | "fields", ... }, and throws a FormError where what was
// typed does not fit, which it shows beside the field. `fail` shows an error of the server where it names a field.

import { element } from "./dom.js";
import { bytes } from "./format.js";
import { indentJson, parseJson } from "./json-text.js";
import { accepts, initialJson, toField } from "./schema-fields.js";
import { findNamed, labelled, makeWidget, newId } from "./schema-form.js";
import { checkCount, DATATYPES, fitShape, generateValues, nest, parseShape, readValues, writeV2 } from "./tensor-values.js";

const MANY = 64; // elements that are still typed by hand

/** What was typed does not fit; it is said beside the field. */
export class FormError extends Error {}

/** The panes for a model: those of its schema first. `onInput` is called after every change. */
export function makePanes(detail, onInput) {
  const kind = detail.description?.kind ?? detail.kind ?? "";
  const example = detail.examples?.predictions ?? null;
  const contentType = example?.content_type ?? "";
  if (detail.values) {
    const image = bodyOf(detail.values.request, detail.inputs);
    const form = schemaPane(detail);
    const panes = [form, jsonPane(form, onInput)];
    return image ? [filePane(image), ...panes] : [...panes, filePane("")];
  }
  if (detail.inputs?.length) {
    const form = tensorPane(detail);
    const image = detail.inputs.some((each) => each.content_type?.startsWith("image/"));
    return [form, jsonPane(form, onInput), filePane(image ? "image/*" : "")];
  }
  const raw = [textPane(contentType.startsWith("text/") ? example.body : ""), rawJsonPane(/json/.test(contentType) ? example.body : ""), filePane(contentType), fieldsPane()];
  const first = /json/.test(contentType) ? "raw-json" : contentType && !contentType.startsWith("text/") ? "file" : "text";
  raw.sort((one, other) => (other.id === first) - (one.id === first));
  if (kind !== "tensors") return raw;
  const form = tensorPane(detail);
  return [form, jsonPane(form, onInput), ...raw];
}

// The media type of a body that is one image or the bytes of one input; "" where it is JSON.
function bodyOf(schema, inputs = []) {
  const field = toField(schema);
  const only = field.kind === "object" && field.fields.length === 1 ? field.fields[0] : field;
  if (only.kind !== "file" || inputs.length > 1) return "";
  return only.schema.contentMediaType?.startsWith("image/") ? "image/*" : "*/*";
}

/** The values of a function, by its schema. */
function schemaPane(detail) {
  const schema = detail.values.request;
  const field = toField(schema);
  const widget = makeWidget(field, field.kind === "object" ? "" : "Body");
  const text = detail.examples?.predictions?.body;
  const start = /json/.test(detail.examples?.predictions?.content_type ?? "") ? text : null;
  try {
    widget.write(parseJson(start || initialJson(field)));
  } catch {
    widget.write(parseJson(initialJson(field)));
  }
  const empty = field.kind === "object" && !field.fields.length;
  return {
    id: "form",
    title: "Form",
    root: element("div", { class: "try-pane" }, empty ? element("p", { class: "muted" }, "The model takes no input.") : widget.root),
    accepts: (value) => accepts(field, value),
    write: (value) => widget.write(value),
    readJson() {
      const problems = [];
      const json = widget.read(problems);
      return { json: json ?? "null", problems };
    },
    read() {
      const { json, problems } = this.readJson();
      showProblems(problems);
      return { kind: "json", json };
    },
    fail: (message) => failNamed(widget, message),
    close() {},
  };
}

function showProblems(problems) {
  for (const { widget, text } of problems) widget.fail(text);
  if (!problems.length) return;
  focusIn(problems[0].widget.root);
  const count = problems.length;
  throw new FormError(count === 1 ? "A field needs a look: see below its name." : `${count} fields need a look.`);
}

const focusIn = (root) => (root.querySelector("[aria-invalid]") ?? root.querySelector("input, textarea, select"))?.focus();

function failNamed(widget, message) {
  const named = findNamed(widget, message);
  named?.fail(message);
  return Boolean(named);
}

/** The tensors of a request of the Open Inference Protocol. */
function tensorPane(detail) {
  const declared = detail.inputs ?? [];
  const examples = new Map((detail.examples?.v2?.inputs ?? []).map((each) => [each.name, each]));
  let rows = declared.map((spec) => tensorRow(spec, examples.get(spec.name)));
  const list = element("div", { class: "try-fields" }, ...rows.map((each) => each.root));
  const root = element("div", { class: "try-pane" }, list);
  const add = (spec, example) => {
    const row = tensorRow(spec, example, () => {
      rows = rows.filter((each) => each !== row);
      row.root.remove();
    });
    rows.push(row);
    list.append(row.root);
    return row;
  };
  if (!declared.length) {
    root.prepend(element("p", { class: "try-hint" }, "The model declares no inputs: name them as its code does."));
    const more = element("button", { type: "button", class: "small" }, "Add an input");
    more.addEventListener("click", () => add(null).root.querySelector("input").focus());
    root.append(more);
    const given = detail.examples?.v2?.inputs ?? [null];
    for (const each of given) add(null, each);
  }
  return {
    id: "tensors",
    title: "Tensors",
    root,
    accepts: (value) => Array.isArray(value?.inputs) && value.inputs.every((each) => !declared.length || declared.some((spec) => spec.name === each.name)),
    write(value) {
      if (!declared.length) {
        rows = [];
        list.replaceChildren();
        for (const each of value.inputs) add(null, each);
        return;
      }
      for (const row of rows) row.write(value.inputs.find((each) => each.name === row.name));
    },
    readJson() {
      const problems = [];
      const inputs = rows.map((each) => each.read(problems)).filter(Boolean);
      return { inputs, json: problems.length ? "" : writeV2(inputs), problems };
    },
    read() {
      const { inputs, problems } = this.readJson();
      showProblems(problems);
      return { kind: "tensors", inputs };
    },
    fail(message) {
      const row = rows.find((each) => message.includes(`'${each.name}'`));
      row?.fail(message);
      return Boolean(row);
    },
    close() {},
  };
}

// One tensor: `spec` is null where the model does not declare it, and `onRemove` takes the row away then.
function tensorRow(spec, example, onRemove) {
  const datatype = () => type?.value ?? spec.datatype ?? "";
  const shape = labelled("Shape", element("input", { type: "text", spellcheck: "false" }));
  const source = element("select", {}, ...["typed", "zeros", "random"].map((each) => element("option", { value: each }, SOURCES[each])));
  const from = labelled("Values from", source);
  const values = labelled("Values", element("textarea", { rows: "2", spellcheck: "false" }), {
    text: "Nested lists as JSON, or numbers with commas between them; of BYTES a text, or a list of texts.",
  });
  const name = spec ? null : labelled("Name", element("input", { type: "text", spellcheck: "false" }));
  const open = !spec || !spec.datatype;
  const type = open ? element("select", {}, ...DATATYPES.map((each) => element("option", {}, each))) : null;
  const typed = type ? labelled("Datatype", type) : null;
  const send = spec?.optional ? element("input", { type: "checkbox", id: newId() }) : null;
  const parts = element("div", { class: "try-fields" }, element("div", { class: "try-row" }, name?.root, typed?.root, shape.root, from.root), values.root);
  const remove = onRemove && element("button", { type: "button", class: "small" }, "Remove this input");
  remove?.addEventListener("click", () => {
    onRemove();
    row.root.remove();
  });
  const dims = spec && !spec.unknown_rank ? `[${spec.shape.join(", ")}]` : "any shape";
  const root = element(
    "fieldset",
    { class: "try-group" },
    element("legend", {}, spec ? spec.name : "Input", ...(spec ? [spec.datatype || "any datatype", dims].map((each) => element("span", { class: "tag" }, each)) : [])),
    send ? element("label", { class: "check", for: send.id }, send, "Send this optional input") : null,
    parts,
    remove ?? null,
  );
  const widget = { root, fail: values.fail };
  const declaredShape = spec && !spec.unknown_rank ? spec.shape : null;
  const show = () => {
    values.root.hidden = source.value !== "typed";
    if (send) parts.hidden = !send.checked;
  };
  // A shape that nobody typed follows the values, and what does not fit is said at once.
  const follow = () => {
    values.fail("");
    shape.fail("");
    if (source.value !== "typed") return;
    try {
      const found = readValues(values.control.value, datatype());
      shape.control.value = fitShape(declaredShape, parseShape(shape.control.value), found.shape, found.count).join(", ");
    } catch {
      // said when it is sent
    }
  };
  values.control.addEventListener("input", follow);
  shape.control.addEventListener("input", () => shape.fail(""));
  source.addEventListener("change", show);
  send?.addEventListener("change", show);
  const row = {
    root,
    get name() {
      return spec ? spec.name : name.control.value;
    },
    fail: values.fail,
    write(tensor) {
      if (send) send.checked = Boolean(tensor);
      if (tensor) {
        if (name) name.control.value = tensor.name ?? "";
        if (type && tensor.datatype) type.value = tensor.datatype;
        source.value = "typed";
        shape.control.value = tensor.shape.join(", ");
        values.control.value = writeData(tensor, datatype());
      }
      show();
    },
    read(problems) {
      if (send && !send.checked) return null;
      const say = (box, text) => problems.push({ widget: { root: box.root, fail: box.fail }, text });
      if (name && !name.control.value) say(name, "the input needs a name");
      let sizes;
      try {
        sizes = parseShape(shape.control.value);
      } catch (error) {
        say(shape, error.message);
        return null;
      }
      const found = { name: row.name, datatype: datatype(), declared: !open, contentType: spec?.content_type === "application/json" ? spec.content_type : "" };
      try {
        if (source.value === "typed") {
          const read = readValues(values.control.value, datatype());
          sizes = fitShape(declaredShape, sizes, read.shape, read.count);
          checkCount(read.count, sizes);
          const same = JSON.stringify(read.shape) === JSON.stringify(sizes);
          return { ...found, shape: sizes, json: read.json, data: read.json, nested: same };
        }
      } catch (error) {
        say(values, error.message);
        return null;
      }
      const fixed = sizes.map((size) => (size < 0 ? 1 : size));
      const json = generateValues(datatype(), fixed.reduce((all, size) => all * size, 1), source.value);
      return { ...found, shape: fixed, json, data: json, nested: fixed.length === 1 };
    },
  };
  widget.read = row.read;
  begin();
  return row;

  function begin() {
    const size = (declaredShape ?? [1]).map((each, at) => (each < 0 ? (at ? 3 : 1) : each));
    const count = size.reduce((all, each) => all * each, 1);
    shape.control.value = size.join(", ");
    if (example) row.write(example);
    else if (spec && datatype() === "BYTES") values.control.value = count > 1 ? JSON.stringify(nest(Array(count).fill("text"), size)) : "text";
    else if (spec && count <= MANY) values.control.value = JSON.stringify(nest(JSON.parse(generateValues(datatype() || "FP32", count, "zeros")), size));
    else if (spec) source.value = "random";
    if (send) send.checked = Boolean(example);
    show();
  }
}

const SOURCES = { typed: "as typed", zeros: "all zeros", random: "random" };

function writeData({ data, shape }, datatype) {
  if (data === undefined) return "";
  const flat = data.length && !Array.isArray(data[0]) && shape.length > 1;
  const count = shape.reduce((all, size) => all * size, 1);
  const json = JSON.stringify(flat && count === data.length ? nest(data, shape) : data);
  if (datatype === "BYTES") return data.length === 1 && typeof data[0] === "string" && !/^\s*[["]/.test(data[0]) ? data[0] : json;
  return indentJson(json.replace(/"(-?\d{16,})"/g, "$1"));
}

/** The JSON of another pane, in step with it. */
function jsonPane(form, onInput) {
  const box = labelled("Body", element("textarea", { rows: "8", spellcheck: "false", class: "try-code" }));
  const note = element("p", { class: "try-hint", role: "status" });
  box.root.append(note);
  const copy = () => {
    const { json, problems } = form.readJson();
    if (!problems.length) box.control.value = indentJson(json);
    note.textContent = "";
    box.fail("");
  };
  form.root.addEventListener("input", copy);
  form.root.addEventListener("change", copy);
  box.control.addEventListener("input", (event) => {
    event.stopPropagation();
    box.fail("");
    note.textContent = "";
    try {
      const value = parseJson(box.control.value);
      if (form.accepts(value)) form.write(value);
      else note.textContent = "The form cannot show this; it is sent as it is.";
    } catch (error) {
      box.fail(`no JSON: ${error.message}`);
    }
    onInput();
  });
  copy();
  return {
    id: "json",
    title: "JSON",
    root: element("div", { class: "try-pane" }, box.root),
    read() {
      let value;
      try {
        value = parseJson(box.control.value);
      } catch (error) {
        showProblems([{ widget: box, text: `no JSON: ${error.message}` }]);
      }
      const found = { kind: "json", json: box.control.value.trim() };
      if (form.id !== "tensors") return found;
      const { inputs, problems } = form.accepts(value) ? form.readJson() : { inputs: null, problems: [] };
      return { kind: "tensors", body: found.json, inputs: problems.length ? null : inputs, parameters: value?.parameters };
    },
    fail: (message) => (form.fail(message), false),
    close() {},
  };
}

function textPane(text) {
  const box = labelled("Text", element("textarea", { rows: "4", class: "try-code" }));
  box.control.value = text;
  const type = typeBox("text/plain; charset=utf-8");
  return simplePane("text", "Text", [box.root, type.root], () => ({
    kind: "bytes", body: box.control.value, contentType: type.control.value,
  }));
}

function rawJsonPane(text) {
  const box = labelled("JSON", element("textarea", { rows: "6", spellcheck: "false", class: "try-code" }));
  box.control.value = text || "{}";
  box.control.addEventListener("input", () => box.fail(""));
  return simplePane("raw-json", "JSON", [box.root], () => {
    try {
      parseJson(box.control.value);
    } catch (error) {
      showProblems([{ widget: box, text: `no JSON: ${error.message}` }]);
    }
    return { kind: "bytes", body: box.control.value.trim(), contentType: "application/json", isJson: true };
  });
}

const TYPES = ["application/json", "application/octet-stream", "application/x-npy", "application/x-npz", "image/jpeg", "image/png", "text/plain"];

function typeBox(value) {
  const list = element("datalist", { id: newId() }, ...TYPES.map((each) => element("option", { value: each })));
  const box = labelled("Content type", element("input", { type: "text", list: list.id, spellcheck: "false" }));
  box.control.value = value;
  box.root.append(list);
  return box;
}

function simplePane(id, title, children, read) {
  return { id, title, root: element("div", { class: "try-pane" }, ...children), read, fail: () => false, close() {} };
}

/** A file as the body: chosen, dropped or pasted; an image is shown. */
function filePane(accept) {
  let file = null;
  let url = "";
  const control = element("input", { type: "file" });
  if (accept.startsWith("image/")) control.accept = "image/*";
  const box = labelled(accept.startsWith("image/") ? "Image" : "File", control, { text: "Choose a file, drop one here, or paste one." });
  const type = typeBox(accept.includes("*") ? "" : accept);
  const shown = element("figure", { class: "try-preview", hidden: true });
  const drop = element("div", { class: "try-drop" }, box.root, shown);
  const release = () => url && URL.revokeObjectURL(url);
  const choose = (chosen) => {
    release();
    url = "";
    file = chosen;
    box.fail("");
    type.control.value = typeOf(file);
    const image = file.type.startsWith("image/");
    if (image) url = URL.createObjectURL(file);
    shown.replaceChildren(
      ...(image ? [element("img", { src: url, alt: `Preview of ${file.name}` })] : []),
      element("figcaption", {}, `${file.name}, ${bytes(file.size)}`),
    );
    shown.hidden = false;
  };
  control.addEventListener("change", () => control.files[0] && choose(control.files[0]));
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
  const root = element("div", { class: "try-pane" }, drop, type.root);
  root.addEventListener("paste", (event) => event.clipboardData.files[0] && choose(event.clipboardData.files[0]));
  return {
    id: "file",
    title: accept.startsWith("image/") ? "Image" : "File",
    root,
    read() {
      if (!file) showProblems([{ widget: box, text: "no file is chosen yet" }]);
      return { kind: "bytes", body: file, contentType: type.control.value };
    },
    fail: () => false,
    close() {
      release();
      url = "";
    },
  };
}

function typeOf(file) {
  if (/\.npy$/i.test(file.name)) return "application/x-npy";
  if (/\.npz$/i.test(file.name)) return "application/x-npz";
  return file.type || "application/octet-stream";
}

/** The fields of a form, each a text or a file. */
function fieldsPane() {
  let rows = [];
  const list = element("ul", { class: "try-items" });
  const add = element("button", { type: "button", class: "small" }, "Add a field");
  const append = () => {
    const name = labelled("Name", element("input", { type: "text", spellcheck: "false" }));
    const text = labelled("Text", element("textarea", { rows: "1" }));
    const file = labelled("or a file", element("input", { type: "file" }));
    const remove = element("button", { type: "button", class: "small" }, "Remove");
    const item = element("li", {}, element("div", { class: "try-row" }, name.root, text.root, file.root), remove);
    const row = { name, text, file };
    remove.addEventListener("click", () => {
      rows = rows.filter((each) => each !== row);
      item.remove();
      add.focus();
    });
    rows.push(row);
    list.append(item);
    return name.control;
  };
  append().value = "data";
  add.addEventListener("click", () => append().focus());
  return simplePane("fields", "Form fields", [list, add], () => {
    showProblems(rows.filter((each) => !each.name.control.value).map((each) => ({ widget: each.name, text: "the field needs a name" })));
    return { kind: "fields", fields: rows.map(({ name, text, file }) => [name.control.value, file.control.files[0] ?? text.control.value]) };
  });
}
