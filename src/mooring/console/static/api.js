// All requests of the page. A token goes into a header and is kept for this tab alone (sessionStorage): none stands in
// an address. Events are read by a streaming fetch, since EventSource can send no header.

/** The server's root, which is not "/" behind a proxy that adds a prefix. */
export const SERVER = new URL("../../", import.meta.url);
const CONSOLE = new URL("../api/", import.meta.url);
const TOKEN = "mooring-console-token";
const LONGEST_SILENCE = 10_000; // ms; the server tells its state every second
const SHORTEST_PAUSE = 500;
const LONGEST_PAUSE = 5_000;

/** An answer that is no success. `status` is 0 where the server was not reached. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = sessionStorage.getItem(TOKEN) ?? "";
let asking = null;
let askPerson = async () => null;

/** Have the person asked by this: `ask({wrong})` gives a token, or null where there is none. */
export function askTokenBy(ask) {
  askPerson = ask;
}

/** The token of this tab, or "". */
export function currentToken() {
  return token;
}

/** What GET answers below console/api/. Raises ApiError. */
export async function getJson(path) {
  return read(await request(new URL(path, CONSOLE)));
}

/** What POST answers below console/api/. Raises ApiError. */
export async function postJson(path, body = {}) {
  const headers = { "content-type": "application/json" };
  return read(await request(new URL(path, CONSOLE), { method: "POST", headers, body: JSON.stringify(body) }));
}

/** The path of a model, or of one of its versions, below console/api/. */
export function modelPath(name, version = null) {
  const path = `models/${encodeURIComponent(name)}`;
  return version === null ? path : `${path}/versions/${encodeURIComponent(version)}`;
}

/**
 * The response to an inference request: `url` is a path of the server ("v2/models/digits/infer"), `init` what fetch
 * takes. It asks for timings. Raises ApiError where the server is not reached; any status is returned.
 */
export async function askInference(url, init = {}) {
  const headers = new Headers(init.headers);
  headers.set("server-timing", "1");
  return request(new URL(String(url).replace(/^\//, ""), SERVER), { ...init, headers });
}

async function request(url, init = {}) {
  for (;;) {
    const used = token;
    const headers = new Headers(init.headers);
    if (used) headers.set("authorization", `Bearer ${used}`);
    let response;
    try {
      response = await fetch(url, { cache: "no-store", credentials: "omit", ...init, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "the server cannot be reached");
    }
    if (response.status !== 401 || !(await replaceToken(used))) return response;
  }
}

/** Whether there is another token than this one, by now or after the person was asked. */
async function replaceToken(used) {
  if (token !== used) return true;
  asking ??= askPerson({ wrong: used !== "" }).finally(() => (asking = null));
  const given = await asking;
  if (given === null) return false;
  token = given;
  sessionStorage.setItem(TOKEN, given);
  return true;
}

async function read(response) {
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // said below, by its status
  }
  if (!response.ok) throw new ApiError(response.status, body?.error ?? `${response.status} ${response.statusText}`);
  return body;
}

/**
 * Read the server's events for ever: `onEvent(type, data)`. The connection is made again whenever it ends, at growing
 * intervals. `onStatus({state, text, retry})` is told what became of it: "live", "lost", "token" (one is needed, and
 * the person gave none), "forbidden"; `retry()` tries at once. Returns what stops it.
 */
export function readEvents(onEvent, onStatus = () => {}) {
  const stop = new AbortController();
  let wake = () => {};
  const retry = () => wake();
  addEventListener("online", retry, { signal: stop.signal });
  document.addEventListener("visibilitychange", () => document.hidden || retry(), { signal: stop.signal });

  const follow = async () => {
    let pause = SHORTEST_PAUSE;
    while (!stop.signal.aborted) {
      const status = await readStream(onEvent, () => {
        pause = SHORTEST_PAUSE;
        onStatus({ state: "live", text: "", retry });
      }, stop.signal);
      if (stop.signal.aborted) return;
      onStatus({ ...status, retry });
      const time = status.state === "token" ? null : pause;
      await new Promise((resolve) => {
        wake = resolve;
        if (time !== null) setTimeout(resolve, time);
      });
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  };
  follow();
  return () => stop.abort();
}

/** One connection, from its start to its end; what ended it. `onOpen` is called once it stands. */
async function readStream(onEvent, onOpen, signal) {
  const abort = new AbortController();
  const stop = () => abort.abort();
  signal.addEventListener("abort", stop);
  // A browser that keeps the page for "back" would keep its connection, too, and has six for a host.
  addEventListener("pagehide", stop, { signal: abort.signal });
  let silence = 0;
  try {
    const response = await request(new URL("events", CONSOLE), { signal: abort.signal });
    if (response.status === 401) return { state: "token", text: "" };
    if (response.status === 403) return { state: "forbidden", text: await reason(response) };
    if (!response.ok) return { state: "lost", text: await reason(response) };
    onOpen();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      silence = setTimeout(stop, LONGEST_SILENCE);
      const { done, value } = await reader.read();
      clearTimeout(silence);
      if (done) return { state: "lost", text: "" };
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) deliver(block, onEvent);
    }
  } catch {
    return { state: "lost", text: "" };
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", stop);
    abort.abort();
  }
}

async function reason(response) {
  try {
    return (await response.json()).error ?? "";
  } catch {
    return "";
  }
}

function deliver(block, onEvent) {
  let type = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) type = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5));
  }
  if (data.length) onEvent(type, JSON.parse(data.join("\n")));
}
