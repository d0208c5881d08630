// What is sent to the server: an ask (see code-lines.js) of what the form says. Pure functions.

import { parseJson } from "./json-text.js";
import { isObject } from "./schema-fields.js";
import { writeGenerate, writeV2 } from "./tensor-values.js";

const JSON_TYPE = "application/json";

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
  const ask = { path: predict, headers: { "content-type": JSON_TYPE, ...stepHeaders }, save: "request.json", call };
  if (read.inputs || read.body !== undefined && read.contentType === undefined) {
    const all = { ...read.parameters, ...steps };
    const written = route === "generate_stream" && read.inputs ? writeGenerate(read.inputs, all) : (read.body ?? writeV2(read.inputs, all));
    const found = call && read.inputs ? { ...call, stream: route === "generate_stream", parameters: all, inputs: read.inputs } : null;
    return { ...ask, path: v2(route), headers: { "content-type": JSON_TYPE }, body: written, call: found };
  }
  if (read.json !== undefined) {
    const [only, ...others] = inputs;
    const value = parseJson(read.json);
    const lone = only && !others.length ? only.name : "";
    const byName = isObject(value) && !(lone && only.content_type === JSON_TYPE && !(lone in value));
    const body = route === "generate_stream" && lone && !byName ? `{${JSON.stringify(lone)}: ${read.json}}` : read.json;
    const found = call && (lone || byName) ? { ...call, value: { json: read.json, name: isObject(value) ? "" : lone } } : null;
    return { ...ask, ...(route === "generate_stream" && { path: v2(route), headers: { "content-type": JSON_TYPE } }), body, call: found };
  }
  if (read.fields) return { ...ask, headers: stepHeaders, body: { fields: read.fields }, call: call && { ...call, row: read.fields } };
  const { body, contentType } = read;
  const isJson = contentType === JSON_TYPE && typeof body === "string";
  const headers = { ...(contentType && { "content-type": contentType }), ...stepHeaders };
  return { ...ask, headers, body, save: isJson ? ask.save : "request.txt", call: call && rawCall(call, inputs, read, isJson) };
}

// How the client says what a body of bytes says; null where it cannot.
function rawCall(call, inputs, { body, contentType }, isJson) {
  if (/^application\/x-np[yz]/.test(contentType)) return inputs.length ? { ...call, file: body } : null;
  if (inputs.length > 1 || (inputs.length && inputs[0].datatype !== "BYTES")) return null;
  return { ...call, declared: inputs.length > 0, row: [[inputs[0]?.name ?? "body", isJson ? { json: body } : body]] };
}
