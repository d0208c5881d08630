// All requests of the page. A token goes into a header and is kept for this tab alone (sessionStorage): none stands in
// an address. Events are read by a streaming fetch, since EventSource can send no header.

/** The server's root, which is not "/" behind a proxy that adds a prefix. */
export const SERVER = new URL("../../", import.meta.url);
const CONSOLE = new URL("../api/", import.meta.url);
const TOKEN = "mooring-console-token";
const LONGEST_SILENCE = 10_000; // ms; the server tells its state every second
const PAUSES = { first: 500, most: 5_000 }; // ms before the next try

/** An answer that is no success. `status` is 0 where the server was not reached. */
export class ApiError extends Error {
	constructor(status, message) {
		super(message);
		this.status = status;
	}
}

let token = sessionStorage.getItem(TOKEN) ?? "";
let inferenceNeedsToken = false;
let asking = null;
let askPerson = async () => null;

/** Have the person asked by this: `ask({wrong})` gives a token, or null where there is none. */
export function askTokenBy(ask) {
	askPerson = ask;
}

/** Whether inference requests are sent with the token: only once the server has refused one without. */
export function inferenceSendsToken() {
	return inferenceNeedsToken && token !== "";
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
 * The response to an inference request that asks for timings, whatever its status: `url` is a path of the server
 * ("v2/models/digits/infer"), `init` what fetch takes. Raises ApiError where the server is not reached.
 */
export async function askInference(url, init = {}) {
	const headers = new Headers(init.headers);
	headers.set("server-timing", "1");
	return request(new URL(String(url).replace(/^\//, ""), SERVER), { ...init, headers }, { inference: true });
}

async function request(url, init = {}, { inference = false } = {}) {
	for (;;) {
		const bare = inference && !inferenceNeedsToken;
		const used = bare ? "" : token;
		const headers = new Headers(init.headers);
		if (used) headers.set("authorization", `Bearer ${used}`);
		let response;
		try {
			response = await fetch(url, { cache: "no-store", credentials: "omit", ...init, headers });
		} catch (error) {
			if (error.name === "AbortError") throw error;
			throw new ApiError(0, "the server cannot be reached");
		}
		if (response.status === 401 && bare) inferenceNeedsToken = true;
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
	const body = await response.json().catch(() => null);
	if (!response.ok) throw new ApiError(response.status, body?.error ?? `${response.status} ${response.statusText}`);
	return body;
}

/**
 * Read the server's events for ever: `onEvent(type, data)`. The connection is made again whenever it ends, at growing
 * intervals. `onStatus({state, text, retry})` is told what became of it: "live", "lost", "token" (one is needed, and
 * the person gave none), "forbidden"; `retry()` tries at once.
 */
export async function readEvents(onEvent, onStatus) {
	let wake = () => {};
	const retry = () => wake();
	addEventListener("online", retry);
	document.addEventListener("visibilitychange", () => document.hidden || retry());
	for (let pause = PAUSES.first; ; pause = Math.min(pause * 2, PAUSES.most)) {
		const status = await readStream(onEvent, () => {
			pause = PAUSES.first / 2;
			onStatus({ state: "live", text: "", retry });
		});
		onStatus({ ...status, retry });
		await new Promise((resolve) => {
			wake = resolve;
			if (status.state !== "token") setTimeout(resolve, pause);
		});
	}
}

/** One connection, from its start to its end; what ended it. `onOpen` is called once it stands. */
async function readStream(onEvent, onOpen) {
	const abort = new AbortController();
	// A browser that keeps the page for "back" would keep its connection, too, and has six for a host.
	addEventListener("pagehide", () => abort.abort(), { signal: abort.signal });
	let silence = 0;
	try {
		const response = await request(new URL("events", CONSOLE), { signal: abort.signal });
		if (!response.ok) {
			if (response.status === 401) return { state: "token", text: "" };
			const text = (await response.json().catch(() => null))?.error ?? "";
			return { state: response.status === 403 ? "forbidden" : "lost", text };
		}
		onOpen();
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		let rest = "";
		for (;;) {
			silence = setTimeout(() => abort.abort(), LONGEST_SILENCE);
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
		abort.abort();
	}
}

function deliver(block, onEvent) {
	const field = (name) => block.split("\n").filter((line) => line.startsWith(name)).map((line) => line.slice(name.length)).join("\n");
	const data = field("data:");
	if (data) onEvent(field("event:").trim(), JSON.parse(data));
}
