// What of a JSON Schema (2020-12, and OpenAPI's nullable) a form can show: a tree of fields. Pure functions.
//
// A field: { kind, path, name, text, required, nullable, hasDefault, fallback (JSON of the default), schema } and, by kind,
//   object: fields        list: item, fewest, most     tuple: items        either: options (fields with a title)
//   choice: choices (JSON of each value)               text, number, integer, boolean, file, json: nothing more
// What a form cannot show (an open object, lists of lists, a schema within itself) is of the kind json.

const DEEPEST = 6;

/** The field of a schema. `path` is its place in the body, as errors of the server name it: "person.tags". */
export function toField(schema, root = schema, { name = "", path = "", required = true, depth = 0 } = {}) {
  const { flat, nullable } = flatten(schema, root);
  const field = {
    kind: "json",
    path,
    name,
    title: flat.title ?? "",
    text: flat.description ?? "",
    required,
    nullable,
    hasDefault: "default" in flat,
    fallback: "default" in flat ? JSON.stringify(flat.default) : "",
    schema: flat,
  };
  if (depth > DEEPEST) return field;
  const below = (part, label) => ({ name: label, path: path ? `${path}${part}` : part.replace(/^\./, ""), depth: depth + 1 });
  if (flat.enum || "const" in flat) {
    const choices = (flat.enum ?? [flat.const]).map((value) => JSON.stringify(value));
    return { ...field, kind: "choice", choices, nullable: nullable && !choices.includes("null") };
  }
  if (flat.anyOf) {
    const options = flat.anyOf.map((each) => toField(each, root, { name, path, depth: depth + 1 }));
    return { ...field, kind: "either", options };
  }
  const type = flat.type ?? (flat.properties ? "object" : "");
  if (type === "object" && flat.properties && Object.keys(flat.properties).length) {
    const wanted = new Set(flat.required ?? []);
    const fields = Object.entries(flat.properties).map(([key, value]) =>
      toField(value, root, { ...below(`.${key}`, key), required: wanted.has(key) }),
    );
    return { ...field, kind: "object", fields };
  }
  if (type === "array" && flat.prefixItems && !isSchema(flat.items)) {
    const items = flat.prefixItems.map((each, at) => toField(each, root, below(`[${at}]`, `Item ${at + 1}`)));
    return { ...field, kind: "tuple", items };
  }
  if (type === "array" && isSchema(flat.items) && !flat.prefixItems) {
    const item = toField(flat.items, root, below("[]", "Item"));
    if (item.kind !== "list" && item.kind !== "tuple" && item.kind !== "json") {
      return { ...field, kind: "list", item, fewest: flat.minItems ?? 0, most: flat.maxItems ?? Infinity };
    }
    return field;
  }
  if (type === "string") return { ...field, kind: isFile(flat) ? "file" : "text" };
  if (["integer", "number", "boolean"].includes(type)) return { ...field, kind: type };
  return field;
}

const isSchema = (value) => value !== null && typeof value === "object" && Object.keys(value).length > 0;
const isFile = (schema) => Boolean(schema.contentMediaType || schema.contentEncoding === "base64" || schema.format === "byte");

/** What a reference "#/$defs/Person" stands for; an empty schema where it stands for nothing. */
export function resolve(schema, root) {
  let found = schema;
  for (let hops = 0; found?.$ref && hops < 20; hops++) {
    let target = root;
    for (const part of found.$ref.replace(/^#\/?/, "").split("/").filter(Boolean)) {
      target = target?.[decodeURIComponent(part).replace(/~1/g, "/").replace(/~0/g, "~")];
    }
    const { $ref, ...beside } = found;
    found = { ...(target ?? {}), ...beside };
  }
  return found === true || !found ? {} : found;
}

// A schema without references, without allOf of one, and with null told apart from what else it may be.
function flatten(schema, root) {
  let flat = resolve(schema, root);
  if (flat.allOf?.length === 1) {
    const { allOf, ...beside } = flat;
    flat = { ...resolve(allOf[0], root), ...beside };
  }
  let nullable = flat.nullable === true;
  if (Array.isArray(flat.type)) {
    const types = flat.type.filter((type) => type !== "null");
    nullable ||= types.length < flat.type.length;
    const { type, ...beside } = flat;
    flat = types.length === 1 ? { ...beside, type: types[0] } : { ...beside, anyOf: types.map((each) => ({ ...beside, type: each })) };
  }
  const some = flat.anyOf ?? flat.oneOf;
  if (some) {
    const { anyOf, oneOf, ...beside } = flat;
    const options = some.map((each) => resolve(each, root)).filter((each) => !isNull(each));
    nullable ||= options.length < some.length;
    if (options.length !== 1) return { flat: { ...beside, anyOf: options }, nullable };
    const inner = flatten(options[0], root);
    return { flat: { ...inner.flat, ...beside }, nullable: nullable || inner.nullable };
  }
  return { flat, nullable };
}

const isNull = (schema) =>
  schema.type === "null" || schema.const === null || (schema.enum?.length === 1 && schema.enum[0] === null);

/** What a choice among several schemas is called. */
export function titleOf(field) {
  if (field.title) return field.title;
  if (field.kind === "choice") return field.choices.length > 3 ? "one of several values" : field.choices.join(" or ");
  const names = { text: "text", object: "object", list: "list", tuple: "list", file: "file", json: "JSON" };
  return field.schema.format && field.kind === "text" ? field.schema.format : (names[field.kind] ?? field.kind);
}

/** A value that a field can begin with, as JSON: its default, or the least that it may be. */
export function initialJson(field) {
  if (field.hasDefault) return field.fallback;
  const example = field.schema.example ?? field.schema.examples?.[0];
  if (example !== undefined) return JSON.stringify(example);
  const members = (fields) => fields.filter((each) => each.required).map((each) => `${JSON.stringify(each.name)}: ${initialJson(each)}`);
  switch (field.kind) {
    case "object":
      return `{${members(field.fields).join(", ")}}`;
    case "list":
      return `[${Array.from({ length: field.fewest }, () => initialJson(field.item)).join(", ")}]`;
    case "tuple":
      return `[${field.items.map(initialJson).join(", ")}]`;
    case "either":
      return initialJson(field.options[0]);
    case "choice":
      return field.choices[0];
    case "boolean":
      return "false";
    case "integer":
    case "number":
      return String(field.schema.minimum ?? 0);
    case "json":
      return field.schema.type === "array" ? "[]" : field.schema.type === "object" ? "{}" : "null";
    default:
      return '""';
  }
}

/** JSON of what was typed into a field of text or a number. Throws an Error that says what the field takes. */
export function readScalar(field, typed) {
  const { schema } = field;
  if (field.kind === "text") {
    const length = [...typed].length;
    if (schema.minLength && length < schema.minLength) throw new Error(`at least ${schema.minLength} characters are needed`);
    if (schema.maxLength !== undefined && length > schema.maxLength) throw new Error(`at most ${schema.maxLength} characters are allowed`);
    if (schema.pattern && !matches(schema.pattern, typed)) throw new Error(`the text must match ${schema.pattern}`);
    return JSON.stringify(typed);
  }
  const text = typed.trim();
  if (!text) throw new Error("a number is needed");
  const whole = field.kind === "integer";
  if (!(whole ? /^-?\d+$/ : /^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i).test(text)) {
    throw new Error(whole ? `a whole number is needed, not ${JSON.stringify(text)}` : `a number is needed, not ${JSON.stringify(text)}`);
  }
  const value = Number(text);
  if (schema.minimum !== undefined && value < schema.minimum) throw new Error(`the least value is ${schema.minimum}`);
  if (schema.maximum !== undefined && value > schema.maximum) throw new Error(`the largest value is ${schema.maximum}`);
  const { exclusiveMinimum: above, exclusiveMaximum: under } = schema;
  if (typeof above === "number" && value <= above) throw new Error(`the value must be above ${above}`);
  if (typeof under === "number" && value >= under) throw new Error(`the value must be below ${under}`);
  return whole ? text.replace(/^(-?)0+(?=\d)/, "$1") : /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i.test(text) ? text : String(value);
}

function matches(pattern, text) {
  try {
    return new RegExp(pattern, "u").test(text);
  } catch {
    return true; // a pattern that only the server can read
  }
}

/** Whether a value can be of a field, as far as its kind tells: which of several schemas a value is shown by. */
export function accepts(field, value) {
  if (value === null) return field.nullable || (field.kind === "choice" && field.choices.includes("null")) || field.kind === "json";
  switch (field.kind) {
    case "object":
      return isObject(value) && field.fields.every((each) => !each.required || each.name in value) &&
        Object.entries(value).every(([key, each]) => field.fields.some((one) => one.name === key && accepts(one, each)));
    case "list":
      return Array.isArray(value) && value.every((each) => accepts(field.item, each));
    case "tuple":
      return Array.isArray(value) && value.length === field.items.length && value.every((each, at) => accepts(field.items[at], each));
    case "either":
      return field.options.some((each) => accepts(each, value));
    case "choice":
      return field.choices.includes(JSON.stringify(value));
    case "integer":
      return Number.isInteger(value) || /^-?\d{16,}$/.test(value);
    case "number":
      return typeof value === "number" || /^-?\d{16,}$/.test(value);
    case "boolean":
      return typeof value === "boolean";
    case "text":
    case "file":
      return typeof value === "string";
    default:
      return true;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
