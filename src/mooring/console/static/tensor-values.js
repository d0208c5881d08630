// Tensors as people type them, and as the Open Inference Protocol has them in JSON. Pure functions.

import { parseJson } from "./json-text.js";

export const DATATYPES = [
  "FP32", "FP64", "FP16", "BF16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL", "BYTES",
];

/** The sizes in a text such as "1, 3, 224"; an empty text is a scalar's shape. Throws an Error that says what is wrong. */
export function parseShape(text) {
  const parts = text.replace(/[[\]()]/g, " ").trim().split(/[\s,x×]+/).filter(Boolean);
  const shape = parts.map(Number);
  if (shape.some((size) => !Number.isSafeInteger(size) || size < -1)) {
    throw new Error("the shape is whole numbers with commas between them, such as 1, 3");
  }
  if (shape.filter((size) => size === -1).length > 1) throw new Error("at most one size of the shape may be -1");
  return shape;
}

/**
 * What was typed for a tensor: { json, shape, count }. JSON is taken as it is, its shape that of the nested lists; other
 * text is a list of numbers, or one text where the datatype is BYTES. Throws an Error that says what is wrong.
 */
export function readValues(text, datatype) {
  const trimmed = text.trim();
  if (datatype === "BYTES" && !/^[["]/.test(trimmed)) return { json: JSON.stringify([text]), shape: [1], count: 1 };
  if (!trimmed) throw new Error("values are missing");
  const json = /^[["]/.test(trimmed) ? trimmed : `[${trimmed.split(/[\s,;]+/).filter(Boolean).join(", ")}]`;
  let value;
  try {
    value = parseJson(json);
  } catch (error) {
    throw new Error(`neither JSON nor a list of ${nameElements(datatype)}: ${error.message}`);
  }
  if (!Array.isArray(value)) return readValues(`[${json}]`, datatype);
  const shape = nestedShape(value);
  const count = checkElements(value, shape, datatype);
  return { json, shape, count };
}

/** The sizes of nested lists, by the first of each. */
export function nestedShape(value) {
  const shape = [];
  for (let at = value; Array.isArray(at); at = at[0]) shape.push(at.length);
  return shape;
}

// Counts the elements of lists that must have a shape; throws for ragged ones and for elements of another type.
function checkElements(value, shape, datatype, depth = 0) {
  if (depth === shape.length) {
    if (Array.isArray(value)) throw new Error("the lists are nested to different depths");
    if (!fitsDatatype(value, datatype)) throw new Error(`${JSON.stringify(value)} is not ${nameElement(datatype)}`);
    return 1;
  }
  if (!Array.isArray(value) || value.length !== shape[depth]) throw new Error("the lists differ in length");
  let count = 0;
  for (const each of value) count += checkElements(each, shape, datatype, depth + 1);
  return count;
}

function fitsDatatype(value, datatype) {
  if (datatype === "BYTES") return typeof value === "string";
  if (datatype === "BOOL") return typeof value === "boolean";
  if (datatype.startsWith("INT")) return Number.isInteger(value) || /^-?\d+$/.test(value);
  if (datatype.startsWith("UINT")) return (Number.isInteger(value) && value >= 0) || /^\d+$/.test(value);
  return typeof value === "number" || value === null || /^-?(NaN|Infinity|\d+)$/.test(value);
}

function nameElements(datatype) {
  return datatype === "BYTES" ? "texts" : datatype === "BOOL" ? "true and false" : "numbers";
}

function nameElement(datatype) {
  if (datatype === "BYTES") return "a text";
  if (datatype === "BOOL") return "true or false";
  if (datatype.startsWith("UINT")) return `a whole number from 0 up, as ${datatype} needs`;
  return datatype.startsWith("INT") ? `a whole number, as ${datatype} needs` : "a number";
}

/** The shape that values have: that of their lists where it fits the declared one, else the typed one, its open size solved. */
export function fitShape(declared, typed, nested, count) {
  if (nested.length === typed.length && fits(declared, nested)) return nested;
  const open = typed.indexOf(-1);
  const solved = (place) => {
    const rest = typed.reduce((product, size, at) => (at === place ? product : product * size), 1);
    return rest > 0 && count % rest === 0 ? typed.with(place, count / rest) : null;
  };
  if (open >= 0) return solved(open) ?? typed;
  if (product(typed) === count) return typed;
  const dynamic = declared ? declared.flatMap((size, at) => (size === -1 ? [at] : [])) : typed.length === 1 ? [0] : [];
  for (const place of dynamic) {
    const shape = solved(place);
    if (shape) return shape;
  }
  return typed;
}

const product = (shape) => shape.reduce((all, size) => all * size, 1);
const fits = (declared, shape) =>
  !declared || (declared.length === shape.length && declared.every((size, at) => size === -1 || size === shape[at]));

/** Throws an Error where values do not fill a shape. */
export function checkCount(count, shape) {
  const wanted = product(shape);
  if (count !== wanted) {
    throw new Error(`${count} value${count === 1 ? "" : "s"} do not fit the shape [${shape.join(", ")}], which holds ${wanted}`);
  }
}

/** JSON of so many zeros, or of random elements of a datatype, as one flat list. */
export function generateValues(datatype, count, kind, random = Math.random) {
  const make = {
    BOOL: () => (kind === "random" ? random() < 0.5 : false),
    BYTES: () => (kind === "random" ? `text ${Math.floor(random() * 100)}` : ""),
  }[datatype] ?? (() => (kind === "zeros" ? 0 : /INT/.test(datatype) ? Math.floor(random() * 100) : Number(random().toFixed(4))));
  return JSON.stringify(Array.from({ length: count }, make));
}

/** The JSON body of a v2 request; `data` of each input is JSON. */
export function writeV2(inputs, parameters = {}) {
  const tensors = inputs.map(({ name, datatype, shape, data, contentType }) => {
    const more = contentType ? `, "parameters": {"content_type": ${JSON.stringify(contentType)}}` : "";
    return `{"name": ${JSON.stringify(name)}, "datatype": "${datatype}", "shape": [${shape.join(", ")}]${more}, "data": ${data}}`;
  });
  const some = Object.keys(parameters).length ? `, "parameters": ${JSON.stringify(parameters)}` : "";
  return `{"inputs": [${tensors.join(", ")}]${some}}`;
}

/** The body of a generate request: each input's value by its name, a lone element as itself. */
export function writeGenerate(inputs, parameters = {}) {
  const members = inputs.map(({ name, shape, data, value }) => `${JSON.stringify(name)}: ${value ?? unwrap(data, shape)}`);
  for (const [name, value] of Object.entries(parameters)) members.push(`${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return `{${members.join(", ")}}`;
}

// The JSON of the only element of lists of one, else the lists.
function unwrap(data, shape) {
  let json = data.trim();
  if (product(shape) !== 1) return json;
  while (json[0] === "[") json = json.slice(1, -1).trim();
  return json;
}

/** Flat elements in the nested lists of a shape. */
export function nest(flat, shape) {
  if (shape.length < 2) return shape.length ? flat : flat[0];
  const step = product(shape.slice(1));
  return Array.from({ length: shape[0] }, (_, at) => nest(flat.slice(at * step, (at + 1) * step), shape.slice(1)));
}
