// Numbers and times as people read them.

/** @param {number} n a number in about five characters */
export function number(n) {
  if (n === 0) return "0";
  if (n >= 1e9) return trim(n / 1e9) + " G";
  if (n >= 1e6) return trim(n / 1e6) + " M";
  if (n >= 1e5) return trim(n / 1e3) + " k";
  if (n >= 10) return Math.round(n).toLocaleString("en");
  if (n < 0.01) return "<0.01";
  return n >= 1 ? n.toFixed(1).replace(/\.0$/, "") : n.toFixed(2);
}

/** @param {number} n */
const trim = (n) => n.toPrecision(3).replace(/\.?0+$/, "");

/** @param {number} n */
export const rate = (n) => number(n) + "/s";

/** @param {number} n a share of 1 */
export function percent(n) {
  if (n === 0) return "0 %";
  if (n < 0.001) return "<0.1 %";
  return (100 * n).toFixed(n < 0.0995 ? 1 : 0) + " %";
}

/** @param {number} seconds a duration with two parts at most */
export function duration(seconds) {
  if (seconds < 1e-3) return number(seconds * 1e6) + " µs";
  if (seconds < 1) return number(seconds * 1e3) + " ms";
  if (seconds < 60) return number(seconds) + " s";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 10) return minutes + " min " + Math.floor(seconds % 60) + " s";
  if (minutes < 60) return minutes + " min";
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return hours + " h " + (minutes % 60) + " min";
  return Math.floor(hours / 24) + " days";
}

/** @param {number} n */
export function bytes(n) {
  if (n >= 1 << 30) return trim(n / (1 << 30)) + " GiB";
  if (n >= 1 << 20) return trim(n / (1 << 20)) + " MiB";
  return n >= 1 << 10 ? trim(n / (1 << 10)) + " KiB" : n + " B";
}

/** @param {string} at the time of day here; with the day if that is another */
export function clock(at) {
  const d = new Date(at);
  const time = d.toLocaleTimeString("en-GB");
  return d.toDateString() === new Date().toDateString() ? time : d.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) + " " + time;
}
