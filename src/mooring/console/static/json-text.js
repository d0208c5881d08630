// JSON as text: long integers and NaN, which JSON.parse would change or refuse, stay as they are written.

const TOKEN = /"(?:[^"\\]|\\[^])*"|-?(?:NaN|Infinity)|-?\d[\d.eE+-]*|true|false|null|\s+|[^]/g;
const OPEN = /^[[{]$/;
const CLOSE = /^[\]}]$/;
const WORDS = { true: "True", false: "False", null: "None", NaN: 'float("nan")', Infinity: 'float("inf")', "-Infinity": 'float("-inf")' };
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** The value of JSON. Integers that a number cannot hold, NaN and the infinities come as strings. Throws SyntaxError. */
export function parseJson(text) {
	if (!/NaN|Infinity|\d{16}/.test(text)) return JSON.parse(text);
	const beyond = (token) => /^-?(NaN|Infinity)$/.test(token) || (/^-?\d+$/.test(token) && !Number.isSafeInteger(+token));
	return JSON.parse(text.replace(TOKEN, (token) => (beyond(token) ? `"${token}"` : token)));
}

/** JSON with a line for every member, its tokens unchanged; lists and objects that fit stay on a line. */
export function indentJson(text, width = 72) {
	const tokens = (text.match(TOKEN) ?? []).filter((token) => token.trim());
	const line = (depth) => "\n" + "  ".repeat(depth);
	let out = "";
	let depth = 0;
	for (let at = 0; at < tokens.length; at++) {
		const token = tokens[at];
		const end = OPEN.test(token) ? findShortEnd(tokens, at, width - 2 * depth) : 0;
		if (end) for (; at <= end; at++) out += /[,:]/.test(tokens[at][0]) ? `${tokens[at]} ` : tokens[at];
		if (end) at--;
		else if (OPEN.test(token)) out += token + line(++depth);
		else if (CLOSE.test(token)) out += line((depth = Math.max(0, depth - 1))) + token;
		else out += token === "," ? token + line(depth) : token === ":" ? ": " : token;
	}
	return out;
}

// Where the list or object of a token ends, if it fits on a line; else 0.
function findShortEnd(tokens, start, width) {
	let depth = 0;
	for (let at = start, length = 0; at < tokens.length && length <= width; at++) {
		length += tokens[at].length + 0.5;
		depth += OPEN.test(tokens[at]) - CLOSE.test(tokens[at]);
		if (!depth) return at;
	}
	return 0;
}

/** The Python expression of JSON's value. Of `numbers`, null and a "NaN" in quotes are NaN. */
export function toPython(json, { numbers = false } = {}) {
	return visibleText(json).replace(TOKEN, (token) => {
		if (token[0] !== '"') return numbers && token === "null" ? WORDS.NaN : (WORDS[token] ?? token);
		const text = JSON.parse(token);
		return (numbers && WORDS[text]) || quotePython(text);
	});
}

/** A text as a literal of Python, which is also one of JSON. */
export const quotePython = (text) => visibleText(JSON.stringify(text));

/** Text that can be shown: characters that hide or reorder others are written as escapes. */
export function visibleText(text) {
	return text.replace(HIDDEN, (each) => (each === "\r" ? "" : "\\u" + each.charCodeAt(0).toString(16).padStart(4, "0")));
}
