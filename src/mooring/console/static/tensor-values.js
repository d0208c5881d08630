// Tensors as people type them, and as the Open Inference Protocol has them in JSON.

import { parseJson } from "./json-text.js";

export const DATATYPES = "FP32 FP64 FP16 BF16 INT64 INT32 INT16 INT8 UINT64 UINT32 UINT16 UINT8 BOOL BYTES".split(" ");
export const sizeOf = (shape) => shape.reduce((all, size) => all * size, 1);

/** The sizes in a text such as "1, 3, 224"; an empty text is the shape of a scalar. */
export function parseShape(text) {
	const shape = text.replace(/[[\]()]/g, " ").trim().split(/[\s,x×]+/).filter(Boolean).map(Number);
	if (shape.some((size) => !Number.isSafeInteger(size) || size < -1)) throw new Error("the shape is whole numbers, such as 1, 3");
	if (shape.filter((size) => size < 0).length > 1) throw new Error("at most one size of the shape may be -1");
	return shape;
}

/** What was typed for a tensor: { json, shape }. Text that is no JSON is a list of numbers; of BYTES it is one text. */
export function readValues(text, datatype) {
	const typed = text.trim();
	if (datatype === "BYTES" && !/^[["]/.test(typed)) return { json: JSON.stringify([text]), shape: [1] };
	if (!typed) throw new Error("values are missing");
	const json = typed[0] === "[" ? typed : `[${typed[0] === '"' ? typed : typed.split(/[\s,;]+/).filter(Boolean).join(", ")}]`;
	const shape = [];
	try {
		for (let at = parseJson(json); Array.isArray(at); at = at[0]) shape.push(at.length);
	} catch (error) {
		throw new Error(`neither JSON nor a list of numbers: ${error.message}`);
	}
	return { json, shape };
}

/** The shape of values: that of their lists if it fits the declared one, else the typed one with its open size solved. */
export function fitShape(declared, typed, nested) {
	const fits = !declared || (declared.length === nested.length && declared.every((size, at) => size < 0 || size === nested[at]));
	if (declared ? fits && nested.length === typed.length : nested.length > 1) return nested;
	const count = sizeOf(nested);
	if (sizeOf(typed) === count) return typed;
	const open = declared ? declared.flatMap((size, at) => (size < 0 ? [at] : [])) : typed.length === 1 ? [0] : [];
	for (const place of typed.includes(-1) ? [typed.indexOf(-1)] : open) {
		const rest = sizeOf(typed.with(place, 1));
		if (rest > 0 && count % rest === 0) return typed.with(place, count / rest);
	}
	return typed;
}

/** Throws an Error where so many values do not fill a shape. */
export function checkCount(count, shape) {
	if (count === sizeOf(shape)) return;
	throw new Error(`${count} value${count === 1 ? "" : "s"} do not fill the shape [${shape.join(", ")}], which holds ${sizeOf(shape)}`);
}

/** So many random elements of a datatype. */
export function randomValues(datatype, count, random = Math.random) {
	const number = () => (/INT/.test(datatype) ? Math.floor(random() * 100) : +random().toFixed(4));
	return Array.from({ length: count }, () => ({ BOOL: random() < 0.5, BYTES: "text" })[datatype] ?? number());
}

/** The body of an infer request; `json` is the elements of an input. */
export function writeV2(inputs, parameters = {}) {
	const tensors = inputs.map(({ name, datatype, shape, json }) =>
		`{"name": ${JSON.stringify(name)}, "datatype": "${datatype}", "shape": [${shape.join(", ")}], "data": ${json}}`);
	return `{"inputs": [${tensors.join(", ")}]${Object.keys(parameters).length ? `, "parameters": ${JSON.stringify(parameters)}` : ""}}`;
}

/** The body of a generate request: inputs by name, a lone element as itself. */
export function writeGenerate(inputs, parameters = {}) {
	const members = inputs.map(({ name, shape, json }) => {
		while (sizeOf(shape) === 1 && json[0] === "[") json = json.slice(1, -1).trim();
		return `${JSON.stringify(name)}: ${json}`;
	});
	return `{${[...members, ...Object.entries(parameters).map((pair) => pair.map((each) => JSON.stringify(each)).join(": "))].join(", ")}}`;
}

/** JSON whose long numbers and NaN, which parseJson gives as texts, are numbers again. */
export const writeNumbers = (json, datatype) => (datatype === "BYTES" ? json : json.replace(/"(-?\d{16,}|-?NaN|-?Infinity)"/g, "$1"));

/** Flat elements in the nested lists of a shape. */
export function nest(flat, shape) {
	if (shape.length < 2) return shape.length ? flat : flat[0];
	const step = sizeOf(shape.slice(1));
	return Array.from({ length: shape[0] }, (_, at) => nest(flat.slice(at * step, (at + 1) * step), shape.slice(1)));
}
