// What the page knows of the server, kept by its events. Views listen ("state", "logs", "errors", "connection") while
// they are shown. Everything here is bounded, so that a page may stay open for weeks.

import { getJson, readEvents } from "./api.js";

export const POINTS = 120; // of a history: two minutes
export const LINES = 500; // of the log
const ERRORS = 100;

class Store extends EventTarget {
	/** The last state, or null before the first. */
	state = null;
	/** LOG lines, oldest first. */
	lines = [];
	/** ERRORs, newest first. */
	errors = [];
	/** {state: "connecting" | "live" | "lost" | "token" | "forbidden", text, retry}. */
	connection = { state: "connecting", text: "", retry: () => {} };
	#histories = new Map();
	#started = 0;

	start() {
		readEvents((type, data) => this.receive(type, data), (status) => this.#setConnection(status));
	}

	/** The rows of a model, its default version first. */
	versions(name) {
		return (this.state?.models ?? []).filter((model) => model.name === name);
	}

	version(name, version) {
		return this.state?.models.find((model) => model.name === name && model.version === version) ?? null;
	}

	/** The last two minutes of a version: {rate, p95}, a number or null for each second. */
	history(name, version) {
		return this.#histories.get(keyOf({ name, version })) ?? { rate: [], p95: [] };
	}

	/** Take an event in: of the stream, or of a test. */
	receive(type, data) {
		if (type === "state") this.#setState(data);
		else if (type === "log") this.#addLines(data.lines);
		else if (type === "error") this.#addError(data);
	}

	#setConnection(status) {
		const changed = status.state !== this.connection.state || status.text !== this.connection.text;
		this.connection = status;
		if (status.state === "live") this.#fetchPast();
		if (changed) this.#tell("connection");
	}

	#setState(state) {
		if (state.server.started !== this.#started) {
			this.#started = state.server.started;
			this.#histories.clear();
		}
		this.state = state;
		const seen = new Set();
		for (const model of state.models) {
			const key = keyOf(model);
			seen.add(key);
			let history = this.#histories.get(key);
			if (!history) this.#histories.set(key, (history = { rate: [], p95: [] }));
			remember(history.rate, model.rate ?? null);
			remember(history.p95, model.latency_ms?.p95 ?? null);
		}
		for (const key of this.#histories.keys()) if (!seen.has(key)) this.#histories.delete(key);
		this.#tell("state");
	}

	/** Logs and errors from before this connection. Their numbers begin anew with each start of the server. */
	async #fetchPast() {
		this.lines = [];
		this.errors = [];
		try {
			const [{ lines }, { errors }] = await Promise.all([getJson("logs"), getJson("errors")]);
			const last = lines.at(-1)?.id ?? -1;
			const known = new Set(errors.map((error) => error.id));
			this.lines = [...lines, ...this.lines.filter((line) => line.id > last)].slice(-LINES);
			this.errors = [...this.errors.filter((error) => !known.has(error.id)), ...errors].slice(0, ERRORS);
		} catch {
			// the stream tells what is wrong
		}
		this.dispatchEvent(new CustomEvent("logs", { detail: null }));
		this.#tell("errors");
	}

	#addLines(lines) {
		const last = this.lines.at(-1)?.id ?? -1;
		const fresh = lines.filter((line) => line.id > last);
		this.lines.push(...fresh);
		if (this.lines.length > LINES) this.lines.splice(0, this.lines.length - LINES);
		if (fresh.length) this.dispatchEvent(new CustomEvent("logs", { detail: fresh }));
	}

	#addError(error) {
		this.errors = [error, ...this.errors.filter((known) => known.id !== error.id)].slice(0, ERRORS);
		this.#tell("errors");
	}

	#tell(type) {
		this.dispatchEvent(new Event(type));
	}
}

/** What tells a version from all others. */
export function keyOf({ name, version }) {
	return JSON.stringify([name, version]);
}

function remember(values, value) {
	values.push(value);
	if (values.length > POINTS) values.shift();
}

export const store = new Store();

/** A view: an element that listens to the store while it is shown, and not while nobody sees the page. */
export class View extends HTMLElement {
	#stop = null;

	connectedCallback() {
		this.#stop = new AbortController();
		this.build?.();
	}

	disconnectedCallback() {
		this.#stop?.abort();
	}

	/** Aborted once the view is gone. */
	get gone() {
		return this.#stop.signal;
	}

	/** Call `draw` now, at each of these events of the store, and when the page is seen again. */
	follow(types, draw) {
		const seen = () => {
			if (!document.hidden) draw();
		};
		for (const type of types) store.addEventListener(type, seen, { signal: this.gone });
		document.addEventListener("visibilitychange", seen, { signal: this.gone });
		draw();
	}
}
