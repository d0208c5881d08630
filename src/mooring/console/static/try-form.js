// What is asked: the panes of the try-it form. A pane: { id, title, root, read(), fail(message), close() }.
//
// `read` returns { inputs } (tensors; or a `body` as it was typed), { json }, { body, contentType } or { fields }. It throws a
// FormError where something does not fit, shown beside the field. `fail` shows an error of the server beside its field.

import { element } from "./dom.js";
import { bytes } from "./format.js";
import { indentJson, parseJson } from "./json-text.js";
import { initialJson, toField } from "./schema-fields.js";
import { area, findNamed, input, labelled, makeWidget, newId, select, showValue, smallButton, tag } from "./schema-form.js";
import { checkCount, DATATYPES, fitShape, nest, parseShape, randomValues, readValues, sizeOf, writeV2 } from "./tensor-values.js";

const MOST = 10_000; // elements that are made without being asked for

/** What was typed does not fit. */
export class FormError extends Error {}

/** The panes for a model, the one that fits it best first. */
export function makePanes({ description = {}, inputs = [], values, examples }) {
  const { content_type: type = "", body = "" } = examples?.predictions ?? {};
  const json = /json/.test(type);
  if (values) {
    const form = schemaPane(values.request, json ? body : "");
    const image = inputs.length === 1 && (inputs[0].content_type ?? "").startsWith("image/");
    return image ? [filePane("image/*"), form, jsonPane(form)] : [form, jsonPane(form), filePane()];
  }
  const tensors = tensorPane(inputs, examples?.v2?.inputs ?? []);
  if (inputs.length) return [tensors, jsonPane(tensors), filePane()];
  const raw = [textPane("Text", json ? "" : body, "text/plain; charset=utf-8"), textPane("JSON", json ? body : "{}", "application/json"), filePane(type), fieldsPane()];
  raw.unshift(...raw.splice(json ? 1 : type.startsWith("text/") ? 0 : 2, 1));
  return ["tensors", "chain", "ensemble"].includes(description.kind) ? [tensors, jsonPane(tensors), ...raw.filter((each) => each.title !== "JSON")] : raw;
}

const pane = (title, children, read, more = {}) => ({
  id: title.toLowerCase(), title, root: element("div", { class: "try-pane" }, children), read, fail() {}, close() {}, ...more,
});

// Shows problems, and throws where there are any.
function refuse(problems) {
  for (const { widget, text } of problems) widget.fail(text);
  if (!problems.length) return;
  const { root } = problems[0].widget;
  (root.querySelector("[aria-invalid]") ?? root.querySelector("input, textarea, select"))?.focus();
  throw new FormError(problems.length === 1 ? "A field does not fit: the reason is beside it." : `${problems.length} fields do not fit.`);
}

/** The values of a function, by their schema. */
function schemaPane(schema, example) {
  const field = toField(schema);
  const widget = makeWidget(field, field.kind === "object" ? "" : "Body");
  widget.write(parseJson(example || initialJson(field)));
  const readJson = (problems) => widget.read(problems) ?? "null";
  const read = () => {
    const problems = [];
    const json = readJson(problems);
    refuse(problems);
    return { json };
  };
  return pane("Form", [widget.root], read, {
    readJson, show: (value) => showValue(widget, value), fail: (message) => findNamed(widget, message)?.fail(message),
  });
}

/** The tensors of a request. */
function tensorPane(specs, examples) {
  let rows = [];
  const list = element("div", { class: "try-fields" });
  const add = (spec, example) => {
    const remove = () => {
      rows = rows.filter((each) => each !== row);
      row.root.remove();
    };
    const row = tensorRow(spec, example, spec ? null : remove);
    rows.push(row);
    list.append(row.root);
    return row;
  };
  const fill = (tensors) => {
    if (specs.length) return rows.forEach((row) => row.write(tensors.find((each) => each.name === row.name())));
    rows = [];
    list.replaceChildren();
    tensors.forEach((each) => add(null, each));
  };
  for (const spec of specs) add(spec, examples.find((each) => each.name === spec.name));
  if (!specs.length) fill(examples.length ? examples : [null]);
  const readInputs = (problems) => rows.map((each) => each.read(problems)).filter(Boolean);
  const read = () => {
    const problems = [];
    const inputs = readInputs(problems);
    refuse(problems);
    return { inputs };
  };
  const more = specs.length ? [list] : [
    element("p", { class: "try-hint" }, "The model declares no inputs: name them as its code does."), list,
    element("div", {}, smallButton("Add an input", () => add(null).root.querySelector("input").focus())),
  ];
  return pane("Tensors", more, read, {
    readInputs, readJson: (problems) => writeV2(readInputs(problems)),
    show(value) {
      const known = Array.isArray(value?.inputs) && value.inputs.every(({ name, shape }) => Array.isArray(shape) && (!specs.length || specs.some((each) => each.name === name)));
      if (known) fill(value.inputs);
      return known;
    },
    fail: (message) => rows.find((each) => message.includes(`'${each.name()}'`))?.fail(message),
  });
}

// One tensor; `spec` is null where the model does not declare it.
function tensorRow(spec, example, remove) {
  const name = spec ? null : labelled("Name", input());
  const type = spec?.datatype ? null : labelled("Datatype", select(DATATYPES.map((each) => [each])));
  const shape = labelled("Shape", input());
  const values = labelled("Values", area(1), { text: "Lists as JSON, or numbers with commas between them. Of BYTES a text, or a list of texts." });
  const sent = spec?.optional ? element("input", { type: "checkbox", id: newId() }) : null;
  const declared = spec?.shape ?? null;
  const datatype = () => type?.control.value ?? spec.datatype;
  const tags = spec ? [spec.datatype || "any datatype", declared ? `[${declared.map((size) => (size < 0 ? "any" : size)).join(", ")}]` : "any shape"] : [];
  const parts = element("div", { class: "try-fields" }, element("div", { class: "try-row" }, [name, type, shape].map((each) => each?.root)), values.root);
  const root = element("fieldset", { class: "try-group" }, element("legend", {}, spec?.name ?? "Input", tags.map(tag)),
    sent && element("label", { class: "check" }, sent, "Send this optional input"), parts,
    element("div", { class: "try-tools" }, smallButton("Random values", () => fill()), remove && smallButton("Remove this input", remove)));
  const show = () => (parts.hidden = sent !== null && !sent.checked);
  const fill = () => {
    const sizes = parseShape(shape.control.value).map(Math.abs);
    values.control.value = writeData({ shape: sizes, data: randomValues(datatype(), sizeOf(sizes)) }, datatype());
    values.control.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const readTyped = () => {
    const found = readValues(values.control.value, datatype());
    return { found, sizes: fitShape(declared, parseShape(shape.control.value), found.shape) };
  };
  root.addEventListener("change", show);
  root.addEventListener("input", ({ target }) => {
    for (const each of [name, values, shape]) each?.fail("");
    try {
      if (target === values.control) shape.control.value = readTyped().sizes.join(", ");
    } catch {
      // said when it is sent
    }
  });

  const row = { root, name: () => spec?.name ?? name.control.value, fail: values.fail };
  row.write = (tensor) => {
    if (sent) sent.checked = Boolean(tensor);
    if (tensor) {
      if (name) name.control.value = tensor.name;
      if (type && tensor.datatype) type.control.value = tensor.datatype;
      shape.control.value = tensor.shape.join(", ");
      values.control.value = writeData(tensor, datatype());
    }
    show();
  };
  row.read = (problems) => {
    if (sent && !sent.checked) return null;
    if (!row.name()) problems.push({ widget: name, text: "the input needs a name" });
    const tensor = { name: row.name(), datatype: datatype(), declared: !type };
    let box = shape;
    try {
      parseShape(shape.control.value);
      box = values;
      const { found, sizes } = readTyped();
      checkCount(sizeOf(found.shape), sizes);
      return { ...tensor, shape: sizes, json: found.json, nested: String(found.shape) === String(sizes) };
    } catch (error) {
      problems.push({ widget: box, text: error.message });
      return null;
    }
  };

  const sizes = (declared ?? [1]).map((size, at) => (size >= 0 ? size : at ? 3 : 1));
  const count = sizeOf(sizes);
  shape.control.value = sizes.join(", ");
  if (spec && count <= MOST) fill();
  row.write(example);
  return row;
}

function writeData({ data = [], shape }, datatype) {
  const flat = !Array.isArray(data[0]) && sizeOf(shape) === data.length;
  if (datatype === "BYTES" && data.length === 1 && /^(?!\s*[["])/.test(data[0])) return data[0];
  const json = JSON.stringify(flat ? nest(data, shape.length ? shape : [1]) : data);
  return indentJson(datatype === "BYTES" ? json : json.replace(/"(-?\d{16,}|-?NaN|-?Infinity)"/g, "$1"));
}

/** The JSON of another pane, in step with it. */
function jsonPane(form) {
  const box = labelled("Body", area(8, { class: "try-code" }));
  const note = element("p", { class: "try-hint", role: "status" });
  box.root.append(note);
  const copy = () => {
    const problems = [];
    const json = form.readJson(problems);
    if (!problems.length) box.control.value = indentJson(json);
    note.textContent = "";
    box.fail("");
  };
  for (const type of ["input", "change", "click"]) form.root.addEventListener(type, copy);
  box.control.addEventListener("input", () => {
    let said = "";
    box.fail("");
    try {
      if (!form.show(parseJson(box.control.value))) said = "The form cannot show this; it is sent as it is.";
    } catch (error) {
      box.fail(`no JSON: ${error.message}`);
    }
    note.textContent = said;
  });
  copy();
  const read = () => {
    const json = box.control.value.trim();
    const value = readJsonIn(box);
    if (!form.readInputs) return { json };
    const problems = [];
    const inputs = form.show(value) ? form.readInputs(problems) : [];
    return { body: json, inputs: inputs.length && !problems.length ? inputs : null, parameters: value?.parameters };
  };
  return pane("JSON", [box.root], read, { tensors: Boolean(form.readInputs), fail: form.fail });
}

function readJsonIn(box) {
  try {
    return parseJson(box.control.value);
  } catch (error) {
    return refuse([{ widget: box, text: `no JSON: ${error.message}` }]);
  }
}

/** A text, or JSON that has no schema, as the body. */
function textPane(title, text, contentType) {
  const box = labelled(title, area(4, { class: "try-code" }));
  const type = labelled("Content type", input({ value: contentType }));
  box.control.value = text;
  box.control.addEventListener("input", () => box.fail(""));
  return pane(title, [box.root, type.root], () => {
    if (title === "JSON") readJsonIn(box);
    return { body: box.control.value, contentType: type.control.value };
  });
}

/** A file as the body: chosen, dropped or pasted; an image is shown. */
function filePane(wanted = "") {
  const title = wanted.startsWith("image/") ? "Image" : "File";
  const box = labelled(title, element("input", { type: "file", accept: title === "Image" && "image/*" }), { text: "Choose a file, drop one here, or paste one." });
  const type = labelled("Content type", input({ value: wanted.includes("*") ? "" : wanted }));
  const shown = element("figure", { class: "try-preview", hidden: true });
  const drop = element("div", { class: "try-drop" }, box.root, shown);
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
    shown.replaceChildren(...(url ? [element("img", { src: url, alt: `Preview of ${file.name}` })] : []), element("figcaption", {}, `${file.name}, ${bytes(file.size)}`));
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
  const made = pane(title, [drop, type.root], () => {
    if (!file) refuse([{ widget: box, text: "no file is chosen yet" }]);
    return { body: file, contentType: type.control.value };
  }, { close });
  made.root.addEventListener("paste", (event) => choose(event.clipboardData.files));
  return made;
}

/** The fields of a form, each a text or a file. */
function fieldsPane() {
  let rows = [];
  const list = element("ul", { class: "try-items" });
  const add = (value = "") => {
    const row = { name: labelled("Name", input({ value })), text: labelled("Text", area(1)), file: labelled("or a file", element("input", { type: "file" })) };
    const remove = smallButton("Remove", () => {
      rows = rows.filter((each) => each !== row);
      item.remove();
    });
    const item = element("li", {}, element("div", { class: "try-row" }, Object.values(row).map((each) => each.root)), remove);
    rows.push(row);
    list.append(item);
    return row;
  };
  add("data");
  return pane("Form fields", [list, element("div", {}, smallButton("Add a field", () => add().name.control.focus()))], () => {
    refuse(rows.filter(({ name }) => !name.control.value).map(({ name }) => ({ widget: name, text: "the field needs a name" })));
    return { fields: rows.map(({ name, text, file }) => [name.control.value, file.control.files[0] ?? text.control.value]) };
  });
}
