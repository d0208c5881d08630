// The states of a version as a person reads them: a word, and the look of its mark.

import { setAttribute, setText } from "./dom.js";
import { seconds } from "./format.js";

const LOOKS = { READY: "ready", LOADING: "busy", UNLOADING: "busy", FAILED: "failed", UNAVAILABLE: "off" };
const WORDS = { READY: "Ready", LOADING: "Loading", UNLOADING: "Unloading", FAILED: "Failed", UNAVAILABLE: "Not loaded" };

export function stateWord(model) {
	if (model.scaled_to_zero) return "Asleep";
	const word = WORDS[model.state] ?? model.state;
	return model.state === "LOADING" && model.loaded_seconds >= 1 ? `${word} ${seconds(Math.floor(model.loaded_seconds))}` : word;
}

/** Show the state of a version in this element. */
export function showState(node, model) {
	setAttribute(node, "class", `state ${model.scaled_to_zero ? "off" : (LOOKS[model.state] ?? "off")}`);
	setText(node, stateWord(model));
}

/** Whether all that is to be ready is so: the look of a mark, and a text. */
export function summaryOf({ server, models }) {
	const wanted = models.filter((model) => model.state !== "UNAVAILABLE");
	const ready = wanted.filter((model) => model.state === "READY").length;
	const failed = wanted.filter((model) => model.state === "FAILED").length;
	if (failed) return { look: "failed", text: `${failed} failed` };
	if (!server.ready) return { look: "busy", text: "Not ready" };
	if (ready < wanted.length) return { look: "busy", text: `${ready} of ${wanted.length} ready` };
	return { look: "ready", text: "Ready" };
}
