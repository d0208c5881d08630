// The lines of code that ask what the page asked: curl, Python and gRPC. Pure functions.
//
// An ask is what was sent: { path, headers, body, save, call }. `body` is text, a File, { fields: [[name, text or File]] }
// or null; `save` is the file that a long text is read from. `call` says the same in the words of mooring.Client, null
// where it has none: { model, version, stream, parameters, inputs | value | file, options }, where
//   inputs  [{ name, datatype, shape, json, declared }]  tensors, their elements as JSON
//   value   { json, input }            one JSON value: all inputs by name, or that of the lone `input`
//   row     [[name, text, File or { json }]]             the fields of a handler, or the bytes of inputs by name
//   file    File                       .npy or .npz

import { toPython, visibleText } from "./json-text.js";

const LONGEST = 1500; // characters of a body that stands in a line
const NUMPY = { FP32: "float32", FP64: "float64", FP16: "float16", BF16: "float32", BOOL: "bool_", BYTES: "object_" };

/** A text as one word of bash. Characters that cannot be seen are written as their bytes. */
export function quoteShell(text) {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  if (visibleText(text) === text) return `'${text.replace(/'/g, `'\\''`)}'`;
  const escaped = text.replace(/['\\]|[^]/gu, (character) => {
    if (character === "'" || character === "\\") return `\\${character}`;
    if (character === "\n" || visibleText(character) === character) return character;
    return [...new TextEncoder().encode(character)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  });
  return `$'${escaped}'`;
}

/** A text as a Python literal. */
export const quotePython = (text) => visibleText(JSON.stringify(text));

/**
 * The lines for an ask: [{ id, title, text, note }]. `context`: `server` (the address that the page uses, with a slash at
 * its end), `grpc` (HOST:PORT, or ""), `secure`, `token` (whether one is needed) and `answer`, the answer's content type.
 */
export function codeLines(ask, context) {
  const long = typeof ask.body === "string" && (ask.body.length > LONGEST || ask.body.includes("\0"));
  const file = long ? ask.save : "";
  return [
    { id: "curl", title: "curl", text: curlLine(ask, context, file), note: "" },
    { id: "python", title: "Python", text: pythonLines(ask, context, file), note: "" },
    { id: "grpc", title: "gRPC", ...grpcLine(ask, context, file) },
  ].map((each) => ({ ...each, file }));
}

function curlLine(ask, { server, token, answer }, file) {
  const parts = [`curl${ask.call?.stream ? " -N" : ""} ${quoteShell(server + ask.path)}`];
  if (token) parts.push(`-H "authorization: Bearer $TOKEN"`);
  const { body } = ask;
  for (const [name, value] of Object.entries(ask.headers)) parts.push(`-H ${quoteShell(`${name}: ${value}`)}`);
  if (body === null) parts.push("-X POST");
  else if (typeof body === "string") {
    if (file) parts.push(`--data-binary ${quoteShell(`@${file}`)}`);
    else parts.push(`${body.startsWith("@") ? "--data-raw" : "-d"} ${quoteShell(escapeJson(ask, body))}`);
  } else if (body.fields) {
    for (const [name, value] of body.fields) {
      const part = typeof value === "string" ? ["--form-string", `${name}=${value}`] : ["-F", `${name}=@"${value.name.replace(/["\\]/g, "\\$&")}"`];
      parts.push(`${part[0]} ${quoteShell(part[1])}`);
    }
  } else parts.push(`--data-binary ${quoteShell(`@${body.name}`)}`);
  if (/^image\//.test(answer)) parts.push(`--output ${quoteShell(answerFile(answer))}`);
  return parts.join(" \\\n  ");
}

// In JSON, characters that cannot be seen are written as JSON's own escapes.
const escapeJson = (ask, body) => (/json/.test(ask.headers["content-type"] ?? "") ? visibleText(body) : body);

const answerFile = (type) => `answer.${type.replace(/^image\//, "").replace(/[+;].*$/, "").replace("jpeg", "jpg")}`;

function pythonLines(ask, context, file) {
  const { call } = ask;
  if (!call) return urllibLines(ask, context, file);
  const imports = new Set();
  const before = [];
  const inputs = pythonInputs(ask, file, imports, before);
  const token = context.token ? ", token=os.environ[\"TOKEN\"]" : "";
  if (token) imports.add("import os");
  const more = [];
  if (call.version) more.push(`version=${quotePython(call.version)}`);
  if (Object.keys(call.parameters ?? {}).length) more.push(`parameters=${toPython(JSON.stringify(call.parameters))}`);
  const asked = [quotePython(call.model), inputs, ...more].join(", ");
  const lines = [...[...imports].filter((each) => !each.includes("numpy"))];
  if (lines.length) lines.push("");
  if ([...imports].some((each) => each.includes("numpy"))) lines.push("import numpy as np");
  lines.push("from mooring import Client", "", ...before, `client = Client(${quotePython(context.server.replace(/\/$/, ""))}${token})`);
  if (call.stream) {
    const piece = call.row && !call.declared ? "piece.value[0].decode()" : "piece.value";
    lines.push(`for piece in client.stream(${asked}):`, `    print(${piece}, end="", flush=True)`);
  } else if (/^image\//.test(context.answer)) {
    lines.push(`result = client.infer(${asked})`, `with open(${quotePython(answerFile(context.answer))}, "wb") as file:`);
    lines.push(`    file.write(result.value${call.declared ? "" : "[0]"})`);
  } else if (call.row && !call.declared) {
    lines.push(`result = client.infer(${asked})`, "print(result.value[0].decode())");
  } else if (call.inputs || call.file) {
    lines.push(`result = client.infer(${asked})`, "for name, value in result.items():", "    print(name, value)");
  } else {
    lines.push(`print(client.infer(${asked}).value)`);
  }
  return lines.join("\n");
}

function pythonInputs({ call }, file, imports, before) {
  if (call.file) {
    imports.add("import numpy as np");
    const load = `np.load(${quotePython(call.file.name)})`;
    return /\.npz$/i.test(call.file.name) ? `dict(${load})` : load;
  }
  const open = file ? `with open(${quotePython(file)}) as file:` : "";
  if (call.value) {
    if (file) {
      imports.add("import json");
      before.push(open, "    value = json.load(file)", "");
    }
    const value = file ? "value" : toPython(call.value.json);
    return call.value.input ? `{${quotePython(call.value.input)}: ${value}}` : value;
  }
  if (call.row) {
    const members = call.row.map(([name, value]) => {
      if (typeof value !== "string" && value.json === undefined) return `${quotePython(name)}: open(${quotePython(value.name)}, "rb").read()`;
      if (!file) return `${quotePython(name)}: ${typeof value === "string" ? quotePython(value) : toPython(value.json)}`;
      if (typeof value === "string") return `${quotePython(name)}: open(${quotePython(file)}, "rb").read()`;
      imports.add("import json");
      return `${quotePython(name)}: json.load(open(${quotePython(file)}))`;
    });
    return `{${members.join(", ")}}`;
  }
  if (file) {
    imports.add("import json");
    before.push(open, '    sent = {each["name"]: each for each in json.load(file)["inputs"]}', "");
  }
  const members = call.inputs.map((input) => {
    const type = NUMPY[input.datatype] ?? input.datatype.toLowerCase();
    const name = quotePython(input.name);
    const numbers = input.datatype !== "BYTES";
    if (!file && input.declared && input.nested) return `${name}: ${toPython(input.json, { numbers })}`;
    imports.add("import numpy as np");
    if (file) return `${name}: np.array(sent[${name}]["data"], np.${type}).reshape(sent[${name}]["shape"])`;
    const array = `np.array(${toPython(input.json, { numbers })}, np.${type})`;
    return `${name}: ${array}${input.nested ? "" : `.reshape(${input.shape.join(", ")})`}`;
  });
  return members.length > 1 || file ? `{\n    ${members.join(",\n    ")},\n}` : `{${members.join("")}}`;
}

// What the client has no call for is asked with what comes with Python.
function urllibLines(ask, { server, token, answer }, file) {
  const lines = [...(token ? ["import os"] : []), "from urllib.request import Request, urlopen", ""];
  const { body } = ask;
  let data = 'b""';
  if (typeof body === "string") data = file ? `open(${quotePython(file)}, "rb").read()` : `${quotePython(body)}.encode()`;
  else if (body?.name !== undefined) data = `open(${quotePython(body.name)}, "rb").read()`;
  const headers = Object.entries(ask.headers).map(([name, value]) => `${quotePython(name)}: ${quotePython(value)}`);
  if (token) headers.push('"authorization": f"Bearer {os.environ[\'TOKEN\']}"');
  lines.push(`headers = {${headers.join(", ")}}`);
  lines.push(`request = Request(${quotePython(server + ask.path)}, ${data}, headers)`);
  lines.push("with urlopen(request) as answer:");
  if (/^image\//.test(answer)) lines.push(`    open(${quotePython(answerFile(answer))}, "wb").write(answer.read())`);
  else lines.push("    print(answer.read().decode())");
  return lines.join("\n");
}

function grpcLine({ call, body }, { grpc, secure, token }, file) {
  if (!grpc) return { text: "", note: "The server has no gRPC address." };
  if (!call) return { text: "", note: "Such a request has no call over gRPC: ask over HTTP." };
  const options = [];
  let input = "";
  const add = (text) => options.push(`-i ${quoteShell(text)}`);
  if (call.file) add(call.file.name);
  else if (file && !call.row) add(file);
  else if (call.value) add(call.value.input ? `{${JSON.stringify(call.value.input)}: ${visibleText(call.value.json)}}` : visibleText(call.value.json));
  else if (call.inputs?.every((each) => each.declared && each.nested && each.datatype !== "BYTES")) {
    for (const each of call.inputs) add(`${each.name}=${each.json}`);
  } else if (call.inputs) add(visibleText(body));
  else {
    for (const [name, value] of call.row) {
      if (typeof value !== "string" && value.json === undefined) add(`${name}=${value.name}`);
      else if (file) add(`${name}=${file}`);
      else if (call.row.length === 1 && typeof value === "string") {
        input = `printf %s ${quoteShell(value)} | `;
        add(`${name}=-`);
      }
    }
    const texts = call.row.filter(([, value]) => typeof value === "string" || value.json !== undefined);
    if (texts.length && !file && !input) {
      if (texts.length < call.row.length) return { text: "", note: "Files and texts together cannot be named on the command line." };
      add(visibleText(JSON.stringify({ inputs: texts.map(bytesInput) })));
    }
  }
  for (const [name, value] of Object.entries(call.parameters ?? {})) {
    if (typeof value === "object") return { text: "", note: "Parameters that are lists or objects have no form over gRPC." };
    options.push(`--parameter ${quoteShell(`${name}=${value}`)}`);
  }
  if (call.version) options.push(`--version ${quoteShell(call.version)}`);
  if (call.stream) options.push("--stream");
  options.push(`--url ${quoteShell(`${secure ? "grpcs" : "grpc"}://${grpc}`)}`);
  const model = quoteShell(call.model);
  const before = `${input}${token ? 'MOORING_TOKEN="$TOKEN" ' : ""}mooring infer`;
  const words = model.startsWith("-") ? [before, ...options, `-- ${model}`] : [`${before} ${model}`, ...options];
  return { text: words.join(" \\\n  "), note: "" };
}

function bytesInput([name, value]) {
  const json = typeof value !== "string";
  const parameters = json ? { parameters: { content_type: "application/json" } } : {};
  return { name, datatype: "BYTES", shape: [1], ...parameters, data: [json ? value.json : value] };
}
