// The shell: which view is shown, and what is said of the server and of the connection to it.

import { askTokenBy } from "./api.js";
import { element, setAttribute, setText } from "./dom.js";
import { stateWord, summaryOf } from "./states.js";
import { keyOf, store } from "./store.js";
import { askForToken } from "./token-dialog.js";
import "./error-list.js";
import "./log-tail.js";
import "./model-list.js";
import "./model-page.js";
import "./settings-table.js";

const main = document.getElementById("main");
const announcer = document.getElementById("announcer");

/** What a hash shows: the tag of a view, its properties and its title. */
function viewOf(hash) {
	const [, view, ...rest] = hash.split("/");
	if (view === "models" && rest[0]) {
		const [name, version = null] = rest.map(decode);
		return { tag: "mooring-model", properties: { name, version }, title: name };
	}
	const title = { errors: "Errors", logs: "Logs", settings: "Settings" }[view] ?? "Models";
	return { tag: `mooring-${title.toLowerCase()}`, properties: {}, title };
}

function decode(part) {
	try {
		return decodeURIComponent(part);
	} catch {
		return part;
	}
}

function showView({ focus }) {
	const { tag, properties, title } = viewOf(location.hash);
	const view = Object.assign(element(tag), properties);
	main.replaceChildren(view);
	document.title = `${title} · Mooring`;
	for (const link of document.querySelectorAll(".bar nav a")) {
		const here = viewOf(link.hash).tag;
		setAttribute(link, "aria-current", here === tag || (tag === "mooring-model" && here === "mooring-models") ? "page" : null);
	}
	if (!focus) return;
	scrollTo(0, 0);
	const heading = view.querySelector("h1");
	heading?.setAttribute("tabindex", "-1");
	heading?.focus({ preventScroll: true });
}

const CONNECTIONS = {
	lost: { text: "Connection lost, trying again.", action: "Try now" },
	token: { text: "This server needs a token.", action: "Enter the token" },
	forbidden: { text: "The server refuses its console here.", action: "Try again" },
};

function showConnection() {
	const { state, text, retry } = store.connection;
	const said = CONNECTIONS[state];
	const banner = document.getElementById("connection");
	banner.hidden = !said;
	if (!said) return;
	banner.classList.toggle("refused", state === "forbidden");
	setText(document.getElementById("connection-text"), text ? `${said.text} ${text}` : said.text);
	const action = document.getElementById("connection-action");
	setText(action, said.action);
	action.onclick = retry;
}

/** Tell screen readers what became of the connection; nothing where it stands for the first time. */
function announceConnection() {
	setText(announcer, CONNECTIONS[store.connection.state]?.text ?? (announcer.textContent && "The connection is back."));
}

let known = new Map();

/** Tell screen readers of versions that changed their state, and of nothing else. */
function announceStates() {
	const now = new Map();
	const changed = [];
	for (const model of store.state.models) {
		const key = keyOf(model);
		now.set(key, model.state);
		if (known.has(key) && known.get(key) !== model.state) changed.push(`${model.name} ${model.version}: ${stateWord({ ...model, loaded_seconds: 0 })}`);
	}
	known = now;
	if (changed.length) setText(announcer, changed.slice(0, 5).join(". "));
}

function showServer() {
	const node = document.getElementById("server-state");
	const live = store.connection.state === "live";
	if (!store.state) return;
	const { look, text } = live ? summaryOf(store.state) : { look: "off", text: "Not connected" };
	setAttribute(node, "class", `server-state state ${look}`);
	setText(node, text);
}

function showErrorCount() {
	const node = document.getElementById("error-count");
	const total = store.errors.length;
	node.hidden = total === 0;
	setText(node, String(total));
	setAttribute(node, "aria-label", `${total} errors`);
}

askTokenBy(askForToken);
store.addEventListener("connection", () => {
	showConnection();
	showServer();
	announceConnection();
});
store.addEventListener("state", () => {
	announceStates();
	if (!document.hidden) showServer();
});
store.addEventListener("errors", showErrorCount);
addEventListener("hashchange", () => showView({ focus: true }));
document.querySelector(".skip").addEventListener("click", (event) => {
	event.preventDefault(); // the hash names the view
	main.focus();
});
showView({ focus: false });
store.start();
