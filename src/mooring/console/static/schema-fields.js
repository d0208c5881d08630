// What of a JSON Schema a form can show: a tree of fields.
//
// A field: { kind, path, name, required, nullable, schema } and by kind: object `fields`, list `item`, either
// `options`, choice `choices` (JSON). The kind json is what a form cannot show (open objects, lists of lists, what holds itself).

const MOST = 500; // fields

/** The field of a schema. `path` is its place in the body, as the server's errors name it: "person.tags". */
export function toField(schema, root = schema, { name = "", path = "", required = true, above = [], made = [] } = {}) {
	const refs = [];
	const { flat, nullable } = flatten(schema, root, refs);
	const field = { kind: "json", path, name, required, nullable, schema: flat };
	const below = (each, label, part, more) => toField(each, root, { name: label, path: (path + part).replace(/^\./, ""), above: [...above, ...refs], made, ...more });
	const { type = flat.properties && "object", properties = {}, prefixItems, items } = flat;
	made.push(field, ...Object.keys(properties));
	if (made.length > MOST || refs.some((each) => above.includes(each))) return field;
	if (flat.enum || "const" in flat) {
		const choices = (flat.enum ?? [flat.const]).map((value) => JSON.stringify(value));
		return { ...field, kind: "choice", choices, nullable: nullable && !choices.includes("null") };
	}
	if (flat.anyOf) return { ...field, kind: "either", options: flat.anyOf.map((each) => below(each, name, "")) };
	if (type === "object" && Object.keys(properties).length) {
		const fields = Object.entries(properties).map(([key, each]) => below(each, key, `.${key}`, { required: Boolean(flat.required?.includes(key)) }));
		return { ...field, kind: "object", fields };
	}
	if (type === "array" && isSchema(items) && !prefixItems) {
		const item = below(items, "Item", "[0]");
		return /list|json/.test(item.kind) ? field : { ...field, kind: "list", item };
	}
	if (type === "string") return { ...field, kind: flat.contentMediaType || flat.contentEncoding || flat.format === "byte" ? "file" : "text" };
	return ["integer", "number", "boolean"].includes(type) ? { ...field, kind: type } : field;
}

const isSchema = (value) => value !== null && typeof value === "object" && Object.keys(value).length > 0;

// A schema with what its references ("#/$defs/Person") stand for.
function resolve(schema, root, refs = []) {
	let found = schema;
	for (let hops = 0; found?.$ref && hops < 20; hops++) {
		const { $ref, ...beside } = found;
		refs.push($ref);
		const parts = $ref.replace(/^#\/?/, "").split("/").filter(Boolean);
		const target = parts.reduce((at, part) => at?.[decodeURIComponent(part)], root);
		found = { ...target, ...beside };
	}
	return isSchema(found) ? found : {};
}

// A schema without references and allOf of one, null told apart from what else its value may be.
function flatten(schema, root, refs) {
	let { allOf, oneOf, ...flat } = resolve(schema, root, refs);
	if (allOf?.length === 1) flat = { ...resolve(allOf[0], root, refs), ...flat };
	let nullable = false;
	if (Array.isArray(flat.type)) flat = { ...flat, type: undefined, anyOf: flat.type.map((type) => ({ ...flat, type })) };
	const some = flat.anyOf ?? oneOf;
	if (!some || refs.length > 50) return { flat, nullable };
	const options = some.filter((each) => !isNull(resolve(each, root)));
	nullable ||= options.length < some.length;
	const { anyOf, type, ...beside } = flat;
	if (options.length !== 1) return { flat: { ...beside, anyOf: options }, nullable };
	const inner = flatten(options[0], root, refs);
	return { flat: { ...inner.flat, ...beside }, nullable: nullable || inner.nullable };
}

const isNull = (schema) => schema.type === "null" || schema.const === null || (schema.enum?.length === 1 && schema.enum[0] === null);

/** What a field takes, in a word or two. */
export function describe({ kind, schema, choices }) {
	if (kind === "choice") return choices.length > 3 ? "one of several values" : choices.join(" or ");
	return (kind === "text" && schema.format) || { json: "JSON", either: "one of several kinds" }[kind] || kind;
}

/** A value that a field can begin with, as JSON: its default, or the least that it may be. */
export function initialJson(field) {
	const { kind, schema } = field;
	const given = schema.default !== undefined ? schema.default : (schema.example ?? schema.examples?.[0]);
	if (given !== undefined) return JSON.stringify(given);
	if (kind === "object") return `{${field.fields.filter((each) => each.required).map((each) => `${JSON.stringify(each.name)}: ${initialJson(each)}`).join(", ")}}`;
	if (kind === "list") return `[${Array(schema.minItems ?? 0).fill(initialJson(field.item)).join(", ")}]`;
	if (kind === "either") return initialJson(field.options[0]);
	if (kind === "choice") return field.choices[0];
	const number = String(schema.minimum ?? 0);
	const least = { boolean: "false", integer: number, number, text: '""', file: '""' };
	return least[kind] ?? { array: "[]", object: "{}" }[schema.type] ?? "null";
}

/** JSON of what was typed into a field of text or a number. Throws an Error that says what the field takes. */
export function readScalar({ kind, schema: { minimum = -Infinity, maximum = Infinity } }, typed) {
	if (kind === "text") return JSON.stringify(typed);
	const text = typed.trim();
	const whole = kind === "integer";
	if (!(whole ? /^-?(0|[1-9]\d*)$/ : /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i).test(text)) throw new Error(`a ${whole ? "whole " : ""}number is needed, not ${JSON.stringify(text)}`);
	if (text < minimum || text > maximum) throw new Error(`the value must be ${text < minimum ? `at least ${minimum}` : `at most ${maximum}`}`);
	return text;
}

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
