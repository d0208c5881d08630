// <mooring-try>: asks a model from the page, and shows its answer, its times and the lines of code that ask the same.
// Properties: model, version, detail (what console/api/models/NAME/versions/VERSION answers).

import { answerParts, errorText, PieceView, saveButton, textBlock, textBox } from "./answer-view.js";
import { askInference, inferenceSendsToken, SERVER } from "./api.js";
import { codeLines, makeAsk, routesFor } from "./code-lines.js";
import { button, copyButton, element, input, select, setText } from "./dom.js";
import { bytes, milliseconds } from "./format.js";
import { labelled, makeTabs } from "./schema-form.js";
import { store } from "./store.js";
import { timingTable } from "./timing-bars.js";
import { FormError, makePanes } from "./try-form.js";

class TryIt extends HTMLElement {
	#panes = [];
	#urls = [];
	#running = null;

	connectedCallback() {
		this.#panes = makePanes(this.detail);
		this.tabs = makeTabs("What is sent", this.#panes, () => this.#showRoutes());
		this.route = labelled("Ask by", element("select"));
		this.sequence = this.detail.sequences ? sequenceFields() : null;
		this.send = element("button", { type: "submit", class: "primary" }, "Send");
		this.stop = button("Stop", () => this.#running?.abort(), { hidden: true });
		this.said = element("p", { role: "status", class: "try-status" });
		this.result = element("div.try-result");
		const form = element("form.try-form", { novalidate: true, "aria-label": `Ask ${this.model}` },
			this.tabs.node, this.sequence?.root, element("div.toolbar", this.route.root, this.send, this.stop, this.said));
		form.addEventListener("submit", (event) => {
			event.preventDefault();
			this.ask();
		});
		form.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.requestSubmit());
		this.replaceChildren(form, this.result);
		this.#showRoutes();
	}

	disconnectedCallback() {
		this.#running?.abort();
		this.#clear();
		for (const pane of this.#panes) pane.close();
	}

	#clear() {
		for (const url of this.#urls.splice(0)) URL.revokeObjectURL(url);
		this.result.replaceChildren();
	}

	#showRoutes() {
		const { tensors, json } = this.tabs.current;
		const routes = routesFor(this.detail, tensors, json);
		const { control, root } = this.route;
		const before = control.value;
		control.replaceChildren(...select(routes).children);
		control.value = routes.some(([route]) => route === before) ? before : routes[0][0];
		root.hidden = routes.length < 2;
	}

	/** Send what the form says, and show what comes. */
	async ask() {
		const running = new AbortController();
		const start = performance.now();
		try {
			const ask = this.#readAsk();
			this.#running?.abort();
			this.#running = running;
			addEventListener("pagehide", () => running.abort(), { signal: running.signal });
			this.stop.hidden = false;
			setText(this.said, "Waiting for the answer…");
			await this.#exchange(ask, running.signal, start);
		} catch (error) {
			if (running.signal.aborted) {
				if (this.#running === running) setText(this.said, `Stopped after ${milliseconds(performance.now() - start)}.`);
			} else if (!(error instanceof FormError)) {
				this.#clear();
				this.result.append(element("p.message.error", error.message));
				setText(this.said, "No answer came.");
			} else setText(this.said, error.message);
		}
		if (this.#running !== running) return;
		if (document.activeElement === this.stop) this.send.focus();
		this.stop.hidden = true;
		this.#running = null;
	}

	#readAsk() {
		const read = this.tabs.current.read();
		return makeAsk(read, {
			model: this.model,
			version: this.detail.description?.is_default === false ? this.version : "",
			inputs: this.detail.inputs,
			route: this.route.control.value,
			steps: this.sequence?.read(),
			streams: Boolean(this.detail.streams || this.detail.values?.streams),
		});
	}

	async #exchange(ask, signal, start) {
		const response = await askInference(ask.path, { method: "POST", headers: ask.headers, body: bodyOf(ask.body), signal });
		const type = response.headers.get("content-type") ?? "";
		const streamed = response.ok && (/event-stream|ndjson/.test(type) || response.headers.has("ts_stream_next"));
		const blob = streamed ? null : await response.blob();
		const time = performance.now() - start;
		const text = streamed ? null : await readText(blob, type);
		if (signal.aborted) return;
		this.#clear();
		const head = element("p.try-head");
		this.result.append(element("h3", "Answer"), head);
		if (streamed) await this.#showPieces(response, type, start, head);
		else this.#showWhole(response, blob, type, text, time, head);
		if (this.#running?.signal !== signal) return; // another request is shown by now
		const table = timingTable(response.headers.get("server-timing"));
		if (table) this.result.append(element("h3", "Timings"), table);
		this.result.append(element("h3", "The same in code"), this.#makeCode(ask, type, response));
	}

	async #showPieces(response, type, start, head) {
		const view = new PieceView(/event-stream/.test(type));
		const reader = response.body.getReader();
		const decoder = new TextDecoder();
		let size = 0;
		let end = "";
		this.result.append(view.node);
		setText(this.said, "Pieces are coming…");
		try {
			for (let done = false, value; !done; ) {
				({ done, value } = await reader.read());
				size += value?.length ?? 0;
				view.add(decoder.decode(value, { stream: !done }));
				setText(head, `${factsOf(response, performance.now() - start, size, type)} · ${view.count} piece${view.count === 1 ? "" : "s"}`);
			}
		} catch (error) {
			end = error.name === "AbortError" ? "Stopped" : "The answer broke off: the model failed, or the connection was lost.";
		}
		view.end();
		const failed = view.error || (end !== "Stopped" && end);
		if (failed) this.result.append(element("p.message.error", failed));
		setText(this.said, failed ? "The answer ended with an error." : `${end || "Answered"} ${end ? "after" : "in"} ${milliseconds(performance.now() - start)}.`);
	}

	#showWhole(response, blob, type, text, time, head) {
		setText(head, factsOf(response, time, blob.size, type));
		if (response.ok) {
			this.result.append(...answerParts(blob, type, text, this.detail.labels, (url) => this.#urls.push(url)));
			return setText(this.said, `Answered in ${milliseconds(time)}.`);
		}
		const said = errorText(text ?? "") || response.statusText;
		this.tabs.current.fail(said);
		this.result.append(element("p.message.error", said),
			element("details", element("summary", "Whole answer"), textBlock(text ?? "", "Whole answer")));
		setText(this.said, `${response.status < 500 ? "Refused" : "Failed"}: ${response.status} ${response.statusText}.`);
	}

	#makeCode(ask, type, response) {
		const stream = ask.call?.stream || (response.ok && response.headers.has("ts_stream_next"));
		const { grpc = "" } = store.state?.server.addresses ?? {};
		const lines = codeLines({ ...ask, call: ask.call && { ...ask.call, stream } }, {
			server: SERVER.href,
			grpc: grpc && `grpc${SERVER.protocol === "https:" ? "s" : ""}://${grpc.replace(/^(0\.0\.0\.0|\[::\])?(?=:)/, SERVER.hostname)}`,
			token: inferenceSendsToken(),
			answer: response.ok ? type : "",
		});
		const panels = lines.map(({ title, text, note, file }) => ({
			title,
			root: text ? element("div", textBox(`${title} line`, text, "code"), element("div.try-tools",
				copyButton(text), file && saveButton(file, () => new Blob([ask.body]), `Save ${file}`))) : element("p.muted", note),
		}));
		return makeTabs("Lines of code", panels).node;
	}
}

function bodyOf(body) {
	if (!body?.fields) return body;
	const form = new FormData();
	for (const [name, value] of body.fields) form.append(name, value);
	return form;
}

// The text of a body; null where it is none.
async function readText(blob, type) {
	try {
		return /^(image|audio|video)\//.test(type) ? null : new TextDecoder("utf-8", { fatal: true }).decode(await blob.arrayBuffer());
	} catch {
		return null;
	}
}

function factsOf(response, time, size, type) {
	const id = response.headers.get("x-request-id");
	return [`${response.status} ${response.statusText}`, milliseconds(time), bytes(size), type, id && `request ${id}`].filter(Boolean).join(" · ");
}

function sequenceFields() {
	const id = labelled("Sequence id", input({ value: "1" }));
	const [start, end] = [["first step", true], ["last step", false]].map(([text, checked]) => element("label.check", element("input", { type: "checkbox", checked }), text));
	return {
		root: element("div.toolbar", { role: "group", "aria-label": "Sequence" }, id.root, start, end),
		read() {
			const typed = id.control.value.trim();
			return {
				...(typed && { sequence_id: /^[1-9]\d{0,14}$/.test(typed) ? Number(typed) : typed }),
				...(start.firstChild.checked && { sequence_start: true }),
				...(end.firstChild.checked && { sequence_end: true }),
			};
		},
	};
}

customElements.define("mooring-try", TryIt);
