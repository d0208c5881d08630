// The lines of code that ask what the page asked: curl, Python and gRPC. Pure functions.
//
// An ask is what was sent: { path, headers, body, save, call }. `body`: text, a File or { fields: [[name, text or File]] };
// `save`: the file of a long text; `call`: the same for mooring.Client, null where it has no such call: { model, version,
// stream, parameters, declared } and `inputs` (tensors), `value` ({ json, name }), `row` ([[name, text, File or { json }]]) or
// `file` (.npy, .npz).

import { quotePython, toPython, visibleText } from "./json-text.js";

const LONGEST = 1500; // characters of a body that stands in a line
const NUMPY = { FP32: "float32", FP64: "float64", FP16: "float16", BF16: "float32", BOOL: "bool_", BYTES: "object_" };
const NO_CALL = "The client has no call for this request: use curl's line.";
const isJson = ({ headers }) => /json/.test(headers["content-type"]);
const isImage = (type) => /^image\//.test(type);
const isFile = (value) => typeof value !== "string" && value?.name !== undefined;

/** A text as one word of bash. */
export const quoteShell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The lines for an ask: [{ title, text, note, file }]. `context`: server (URL), grpc (HOST:PORT), secure, token, answer (type). */
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

const answerFile = (type) => `answer.${type.slice(6).replace(/[+;].*$/, "").replace("jpeg", "jpg")}`;

function curlLine({ path, headers, body, call }, { server, token, answer }, file) {
  const parts = [`curl${call?.stream ? " -N" : ""} ${quoteShell(server + path)}`];
  if (token) parts.push('-H "authorization: Bearer $TOKEN"');
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoteShell(`${name}: ${value}`)}`);
  if (file || isFile(body)) parts.push(`--data-binary ${quoteShell(`@${file || body.name}`)}`);
  else if (typeof body === "string") {
    parts.push(`${body[0] === "@" ? "--data-raw" : "-d"} ${quoteShell(isJson({ headers }) ? visibleText(body) : body)}`);
  }
  for (const [name, value] of body?.fields ?? []) {
    if (isFile(value)) parts.push(`-F ${quoteShell(`${name}=@"${value.name.replace(/["\\]/g, "\\$&")}"`)}`);
    else parts.push(`--form-string ${quoteShell(`${name}=${value}`)}`);
  }
  if (isImage(answer)) parts.push(`--output ${quoteShell(answerFile(answer))}`);
  return parts.join(" \\\n  ");
}

function clientLines({ call }, { server, token, answer }, file) {
  const { numpy, before, text } = clientInputs(call, file);
  const parameters = Object.keys(call.parameters ?? {}).length ? `, parameters=${toPython(JSON.stringify(call.parameters))}` : "";
  const asked = `(${quotePython(call.model)}, ${text}${call.version && `, version=${quotePython(call.version)}`}${parameters})`;
  const standard = [...(before.some((each) => each.includes("json.")) || text.includes("json.load(") ? ["import json"] : []), ...(token ? ["import os"] : [])];
  const lines = [...standard, ...(standard.length ? [""] : []), ...(numpy ? ["import numpy as np"] : []), "from mooring import Client", "", ...before];
  lines.push(`client = Client(${quotePython(server.replace(/\/$/, ""))}${token ? ', token=os.environ["TOKEN"]' : ""})`);
  const bytes = call.row && !call.declared;
  if (call.stream) lines.push(`for piece in client.stream${asked}:`, `    print(piece.value${bytes ? "[0].decode()" : ""}, end="", flush=True)`);
  else if (isImage(answer)) lines.push(`result = client.infer${asked}`, `open(${quotePython(answerFile(answer))}, "wb").write(result.value${bytes ? "[0]" : ""})`);
  else if (call.inputs || call.file) lines.push(`result = client.infer${asked}`, "for name, value in result.items():", "    print(name, value)");
  else lines.push(`print(client.infer${asked}.value${bytes ? "[0].decode()" : ""})`);
  return lines.join("\n");
}

// What goes into a call, as Python: { text, before (lines), numpy (needed) }.
function clientInputs({ file: array, value, row, inputs }, file) {
  const named = (pairs) => `{${pairs.map(([name, text]) => `${quotePython(name)}: ${text}`).join(", ")}}`;
  if (array) {
    const load = `np.load(${quotePython(array.name)})`;
    return { numpy: true, before: [], text: /\.npz$/i.test(array.name) ? `dict(${load})` : load };
  }
  if (value) {
    const text = file ? `json.load(open(${quotePython(file)}))` : toPython(value.json);
    return { before: [], text: value.name ? named([[value.name, text]]) : text };
  }
  if (row) {
    const read = (each) => {
      if (isFile(each)) return `open(${quotePython(each.name)}, "rb").read()`;
      if (each.json === undefined) return file ? `open(${quotePython(file)}, "rb").read()` : quotePython(each);
      return file ? `json.load(open(${quotePython(file)}))` : toPython(each.json);
    };
    return { before: [], text: named(row.map(([name, each]) => [name, read(each)])) };
  }
  const before = file ? [`sent = json.load(open(${quotePython(file)}))["inputs"]`, ""] : [];
  let numpy = false;
  const texts = inputs.map(({ name, datatype, shape, json, declared, nested }, at) => {
    const text = file ? `sent[${at}]["data"]` : toPython(json, { numbers: datatype !== "BYTES" });
    if (declared && nested && !file) return [name, text];
    numpy = true;
    const reshape = file ? `.reshape(sent[${at}]["shape"])` : nested ? "" : `.reshape(${shape.join(", ")})`;
    return [name, `np.array(${text}, np.${NUMPY[datatype] ?? datatype.toLowerCase()})${reshape}`];
  });
  return { numpy, before, text: named(texts) };
}

function grpcLine({ call, body }, { grpc, secure, token }, file) {
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
  options.push(`--url ${quoteShell(`${secure ? "grpcs" : "grpc"}://${grpc}`)}`);
  const command = `${before}${token ? 'MOORING_TOKEN="$TOKEN" ' : ""}mooring infer`;
  return { text: (model[0] === "-" ? [command, ...options, `-- ${quoteShell(model)}`] : [`${command} ${quoteShell(model)}`, ...options]).join(" \\\n  ") };
}

function bytesInput([name, each]) {
  const { json } = each;
  return { name, datatype: "BYTES", shape: [1], ...(json !== undefined && { parameters: { content_type: "application/json" } }), data: [json ?? each] };
}
