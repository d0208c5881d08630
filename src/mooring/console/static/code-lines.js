// What is sent, and the lines of code that send the same: curl, Python and gRPC.
//
// An ask: { path, headers, body, save, call }. `body`: text, a File or { fields }; `save`: the file of a long text; `call`: the
// same for mooring.Client, or null: { model, version, stream, parameters, declared } and `inputs` (tensors), `value` ({ json,
// name }), `row` ([[name, text, File or { json }]]) or `file` (.npy, .npz).

import { parseJson, quotePython, toPython, visibleText } from "./json-text.js";
import { isObject } from "./schema-fields.js";
import { writeGenerate, writeV2 } from "./tensor-values.js";

const JSON_TYPE = "application/json";
const LONGEST = 1500; // characters of a body that stands in a line
const NUMPY = { FP32: "float32", FP64: "float64", FP16: "float16", BF16: "float32", BOOL: "bool_", BYTES: "object_" };
const NO_CALL = "The client has no call for this request: use curl's line.";
const isJson = ({ headers }) => /json/.test(headers["content-type"]);
const isImage = (type) => /^image\//.test(type);
const isFile = (value) => typeof value !== "string" && value?.name !== undefined;

/** The ways to ask a model for what a pane reads, the best first: [[route, title]]. */
export function routesFor({ streams, values, has_explanations: explains }, tensors, json) {
	const generate = (tensors || json) && (streams || values?.streams) ? [["generate_stream", "generate_stream (server-sent events)"]] : [];
	const first = tensors ? [["infer", "infer"]] : [["predict", generate.length ? "predictions (chunks)" : "predictions"]];
	return [...(tensors ? [...generate, ...first] : [...first, ...generate]), ...(explains ? [["explain", "explain"]] : [])];
}

/** The ask for what a pane read; `version` "" is the default one, `steps` are the parameters of a sequence's step. */
export function makeAsk(read, { model, version, inputs = [], route, steps = {}, streams = false }) {
	const call = route === "explain" ? null : { model, version, stream: streams, parameters: steps };
	const name = encodeURIComponent(model);
	const number = encodeURIComponent(version);
	const v2 = (verb) => `v2/models/${name}${version && `/versions/${number}`}/${verb}`;
	const predict = `${route === "explain" ? "explanations" : "predictions"}/${name}${version && `/${number}`}`;
	const stepHeaders = Object.fromEntries(Object.entries(steps).map(([key, value]) => [`ts_request_${key}`, String(value)]));
	const jsonHeaders = { "content-type": JSON_TYPE };
	const ask = { path: predict, headers: { ...jsonHeaders, ...stepHeaders }, save: "request.json", call };
	if (read.inputs || read.body !== undefined && read.contentType === undefined) {
		const all = { ...read.parameters, ...steps };
		const written = route === "generate_stream" && read.inputs ? writeGenerate(read.inputs, all) : (read.body ?? writeV2(read.inputs, all));
		const found = call && read.inputs ? { ...call, stream: route === "generate_stream", parameters: all, inputs: read.inputs } : null;
		return { ...ask, path: v2(route), headers: jsonHeaders, body: written, call: found };
	}
	if (read.json !== undefined) {
		const [only, ...others] = inputs;
		const value = parseJson(read.json);
		const lone = only && !others.length ? only.name : "";
		const byName = isObject(value) && !(lone && only.content_type === JSON_TYPE && !(lone in value));
		const body = route === "generate_stream" && lone && !byName ? `{${JSON.stringify(lone)}: ${read.json}}` : read.json;
		const found = call && (lone || byName) ? { ...call, value: { json: read.json, name: isObject(value) ? "" : lone } } : null;
		return { ...ask, ...(route === "generate_stream" && { path: v2(route), headers: jsonHeaders }), body, call: found };
	}
	if (read.fields) return { ...ask, headers: stepHeaders, body: { fields: read.fields }, call: call && { ...call, row: read.fields } };
	const { body, contentType } = read;
	const typedJson = contentType === JSON_TYPE && typeof body === "string";
	const headers = { ...(contentType && { "content-type": contentType }), ...stepHeaders };
	return { ...ask, headers, body, save: typedJson ? ask.save : "request.txt", call: call && rawCall(call, inputs, read, typedJson) };
}

// How the client says what a body of bytes says; null where it cannot.
function rawCall(call, inputs, { body, contentType }, typedJson) {
	if (/^application\/x-np[yz]/.test(contentType)) return inputs.length ? { ...call, file: body } : null;
	if (inputs.length > 1 || (inputs.length && inputs[0].datatype !== "BYTES")) return null;
	return { ...call, declared: inputs.length > 0, row: [[inputs[0]?.name ?? "body", typedJson ? { json: body } : body]] };
}

/** A text as one word of bash. */
export const quoteShell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The lines for an ask: [{ title, text, note, file }]. `context`: server (URL), grpc (URL), token, answer (type). */
export function codeLines(ask, context) {
	const { body, save } = ask;
	const hidden = typeof body === "string" && !isJson(ask) && visibleText(body) !== body;
	const file = typeof body === "string" && (body.length > LONGEST || hidden) ? save : "";
	return [
		{ title: "curl", text: curlLine(ask, context, file) },
		{ title: "Python", ...(ask.call ? { text: clientLines(ask, context, file) } : { note: NO_CALL }) },
		{ title: "gRPC", ...(ask.call ? grpcLine(ask, context, file) : { note: NO_CALL }) },
	].map((each) => ({ note: "", ...each, file }));
}

/** The name of a file for an image that a model answers. */
export const answerFile = (type) => `answer.${type.slice(6).replace(/[+;].*$/, "")}`;

function curlLine({ path, headers, body, call }, { server, token, answer }, file) {
	const parts = [`curl${call?.stream ? " -N" : ""} ${quoteShell(server + path)}`];
	if (token) parts.push('-H "authorization: Bearer $TOKEN"');
	for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoteShell(`${name}: ${value}`)}`);
	if (file || isFile(body)) parts.push(`--data-binary ${quoteShell(`@${file || body.name}`)}`);
	else if (typeof body === "string") parts.push(`--data-raw ${quoteShell(isJson({ headers }) ? visibleText(body) : body)}`);
	for (const [name, value] of body?.fields ?? []) {
		if (isFile(value)) parts.push(`-F ${quoteShell(`${name}=@"${value.name.replace(/["\\]/g, "\\$&")}"`)}`);
		else parts.push(`--form-string ${quoteShell(`${name}=${value}`)}`);
	}
	if (isImage(answer)) parts.push(`--output ${quoteShell(answerFile(answer))}`);
	return parts.join(" \\\n  ");
}

function clientLines({ call }, { server, token, answer }, file) {
	const { model, version, parameters, stream, declared, row, inputs } = call;
	const more = Object.keys(parameters ?? {}).length ? `, parameters=${toPython(JSON.stringify(parameters))}` : "";
	const asked = `(${quotePython(model)}, ${clientInputs(call, file)}${version && `, version=${quotePython(version)}`}${more})`;
	const bytes = row && !declared;
	const text = bytes ? "[0].decode()" : "";
	const lines = [`client = Client(${quotePython(server.replace(/\/$/, ""))}${token ? ', token=os.environ["TOKEN"]' : ""})`];
	if (file && inputs) lines.unshift(`sent = ${loadJson(file)}["inputs"]`);
	if (stream) lines.push(`for piece in client.stream${asked}:`, `    print(piece.value${text}, end="", flush=True)`);
	else if (isImage(answer)) lines.push(`result = client.infer${asked}`, `open(${quotePython(answerFile(answer))}, "wb").write(result.value${bytes ? "[0]" : ""})`);
	else if (inputs || call.file) lines.push(`result = client.infer${asked}`, "for name, value in result.items():", "    print(name, value)");
	else lines.push(`print(client.infer${asked}.value${text})`);
	const code = lines.join("\n");
	const imports = ["json", "os", "np"].filter((each) => code.includes(`${each}.`)).map((each) => `import ${each === "np" ? "numpy as np" : each}\n`);
	return `${imports.join("")}from mooring import Client\n\n${code}`;
}

const loadJson = (file) => `json.load(open(${quotePython(file)}))`;
const loadBytes = (file) => `open(${quotePython(file)}, "rb").read()`;

// What goes into a call, as Python.
function clientInputs({ file: array, value, row, inputs }, file) {
	const named = (pairs) => `{${pairs.map(([name, text]) => `${quotePython(name)}: ${text}`).join(", ")}}`;
	const json = (text) => (file ? loadJson(file) : toPython(text));
	if (array) return (/\.npz$/i.test(array.name) ? (text) => `dict(${text})` : String)(`np.load(${quotePython(array.name)})`);
	if (value) return value.name ? named([[value.name, json(value.json)]]) : json(value.json);
	if (row) return named(row.map(([name, each]) => [name, isFile(each) ? loadBytes(each.name) : each.json !== undefined ? json(each.json) : file ? loadBytes(file) : quotePython(each)]));
	return named(inputs.map(({ name, datatype, shape, json, nested }, at) => {
		const type = NUMPY[datatype] ?? datatype.toLowerCase();
		if (file) return [name, `np.array(sent[${at}]["data"], np.${type}).reshape(sent[${at}]["shape"])`];
		return [name, `np.array(${toPython(json, { numbers: datatype !== "BYTES" })}, np.${type})${nested ? "" : `.reshape(${shape.join(", ")})`}`];
	}));
}

function grpcLine({ call, body }, { grpc, token }, file) {
	if (!grpc) return { note: "The server has no gRPC address." };
	const { model, version, stream, parameters = {}, value, row, inputs } = call;
	const texts = (row ?? []).filter(([, each]) => !isFile(each));
	const words = [];
	let before = "";
	if (Object.values(parameters).some((each) => typeof each === "object")) return { note: "gRPC has no parameters that are lists or objects." };
	if (call.file) words.push(call.file.name);
	else if (value) words.push(file || visibleText(value.name ? `{${JSON.stringify(value.name)}: ${value.json}}` : value.json));
	else if (inputs) {
		const plain = !file && inputs.every((each) => each.declared && each.nested && each.datatype !== "BYTES");
		words.push(...(plain ? inputs.map((each) => `${each.name}=${each.json}`) : [file || visibleText(body)]));
	} else if (texts.length === row.length && !file && (row.length > 1 || texts[0][1].json !== undefined)) {
		words.push(visibleText(JSON.stringify({ inputs: texts.map(bytesInput) })));
	} else if (texts.length && row.length > 1) return { note: "The command line names no texts beside files." };
	else {
		if (texts.length && !file) before = `printf %s ${quoteShell(row[0][1])} | `;
		words.push(...row.map(([name, each]) => `${name}=${before ? "-" : file || each.name}`));
	}
	const options = words.map((each) => `-i ${quoteShell(each)}`);
	for (const [name, each] of Object.entries(parameters)) options.push(`--parameter ${quoteShell(`${name}=${each}`)}`);
	if (version) options.push(`--version ${quoteShell(version)}`);
	if (stream) options.push("--stream");
	options.push(`--url ${quoteShell(grpc)}`);
	const command = `${before}${token ? 'MOORING_TOKEN="$TOKEN" ' : ""}mooring infer`;
	return { text: (model[0] === "-" ? [command, ...options, `-- ${quoteShell(model)}`] : [`${command} ${quoteShell(model)}`, ...options]).join(" \\\n  ") };
}

function bytesInput([name, each]) {
	const { json } = each;
	return { name, datatype: "BYTES", shape: [1], ...(json !== undefined && { parameters: { content_type: JSON_TYPE } }), data: [json ?? each] };
}
