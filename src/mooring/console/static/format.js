// Numbers and times as people read them. Null and undefined are a dash.

const NONE = "–";

/** Milliseconds: "0.42 ms", "14.2 ms", "320 ms", "4.1 s". */
export function milliseconds(value) {
	if (value == null) return NONE;
	if (value >= 1000) return seconds(value / 1000);
	return `${digits(value)} ms`;
}

/** A span of seconds: "0.4 s", "42 s", "3 min 5 s", "2 h 10 min", "3 d 4 h". */
export function seconds(value) {
	if (value == null) return NONE;
	if (value < 10) return `${digits(value)} s`;
	const whole = Math.floor(value);
	if (whole < 60) return `${whole} s`;
	if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
	if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
	return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** A number of bytes: "812 B", "4.2 MB", "1.3 GB". */
export function bytes(value) {
	if (value == null) return NONE;
	let left = value;
	for (const unit of ["B", "kB", "MB", "GB"]) {
		if (left < 1000) return `${unit === "B" ? left : digits(left)} ${unit}`;
		left /= 1000;
	}
	return `${digits(left)} TB`;
}

/** Something in a second: "0", "0.4", "312", "5,012". */
export function perSecond(value) {
	return value == null ? NONE : digits(value);
}

export function count(value) {
	return value == null ? NONE : Math.round(value).toLocaleString("en");
}

/** Three digits that matter, without zeros at the end. */
export function digits(value) {
	if (value >= 100) return Math.round(value).toLocaleString("en");
	return String(Number(value.toPrecision(value >= 1 ? 3 : 2)));
}

/** The sizes of a tensor: "[any, 3]". */
export function shapeText(shape) {
	return `[${shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`;
}

/** The time of day of seconds since the epoch: "14:03:21". */
export function clock(epoch) {
	return new Date(epoch * 1000).toLocaleTimeString("en-GB");
}

/** Date and time of seconds since the epoch, in this browser's zone: "2026-11-30 14:03:21". */
export function dateTime(epoch) {
	return new Date(epoch * 1000).toLocaleString("sv-SE");
}
