// JSON as text: what JSON.parse and JSON.stringify would change (long integers, NaN) stays as it was written. Pure functions.

const TOKEN = /"(?:[^"\\]|\\[^])*"|-?(?:NaN|Infinity)|-?\d[\d.eE+-]*|true|false|null|[[\]{},:]|\s+|[^]/g;
const WORDS = { true: "True", false: "False", null: "None", NaN: 'float("nan")', Infinity: 'float("inf")', "-Infinity": '-float("inf")' };

/** The value of JSON. Integers that a number cannot hold, NaN and the infinities come as strings. Throws SyntaxError. */
export function parseJson(text) {
  if (!/NaN|Infinity|\d{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text.replace(TOKEN, (token) => (isBeyondJson(token) ? `"${token}"` : token)));
}

function isBeyondJson(token) {
  if (/^-?(NaN|Infinity)$/.test(token)) return true;
  return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token));
}

/** JSON with a line for every member, its tokens unchanged; short lists of plain values stay on one line. */
export function indentJson(text, width = 88) {
  const tokens = (text.match(TOKEN) ?? []).filter((token) => token.trim());
  const out = [];
  let depth = 0;
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at];
    if (token === "[" || token === "{") {
      const end = findShortEnd(tokens, at, width - 2 * depth);
      if (end) {
        out.push(tokens.slice(at, end + 1).map((each) => (each === "," || each === ":" ? each + " " : each)).join(""));
        at = end;
        continue;
      }
      depth++;
      out.push(token, newLine(depth));
    } else if (token === "]" || token === "}") {
      depth = Math.max(0, depth - 1);
      out.push(newLine(depth), token);
    } else if (token === ",") {
      out.push(token, newLine(depth));
    } else {
      out.push(token === ":" ? ": " : token);
    }
  }
  return out.join("");
}

const newLine = (depth) => "\n" + "  ".repeat(depth);

// Where the list or object that begins at a token ends, if it holds no other one and fits on a line; else 0.
function findShortEnd(tokens, start, width) {
  let length = 0;
  for (let at = start + 1; at < tokens.length; at++) {
    const token = tokens[at];
    if (token === "]" || token === "}") return at;
    length += token.length + 1;
    if (token === "[" || token === "{" || length > width) return 0;
  }
  return 0;
}

/** The Python expression that has the value of JSON; of numbers also where null, or "NaN" in quotes, is a missing one. */
export function toPython(json, { numbers = false } = {}) {
  return visibleText(json).replace(TOKEN, (token) => {
    if (token[0] === '"') {
      const text = JSON.parse(token);
      return numbers && text in WORDS ? WORDS[text] : visibleText(JSON.stringify(text));
    }
    return numbers && token === "null" ? WORDS.NaN : (WORDS[token] ?? token);
  });
}

/** Text that can be shown: characters that hide or reorder others are written as their escapes. */
export function visibleText(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (character) => {
    if (character === "\r") return "";
    return "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0");
  });
}
