"use strict";
// Elements, words and numbers. Text is always a text node: a name from outside is never HTML.

const WORDS = JSON.parse(document.getElementById("words").textContent);
const KIB = 1024, MIB = KIB * 1024, GIB = MIB * 1024;
const byId = (id) => document.getElementById(id);

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "colour") made.style.setProperty("--c", value);
    else if (name === "width%") made.style.width = `${value}%`;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// words and numbers, as the report has them

const known = (vocabulary, key) =>
  vocabulary.find((own) => own.key === key) ?? { key, label: key, colour: WORDS.other };
const threeDigits = (value) =>
  value.toFixed(value > 0 ? Math.max(0, 2 - Math.floor(Math.log10(value))) : 2);

function bytesText(count) {
  for (const [unit, size] of [["GiB", GIB], ["MiB", MIB], ["KiB", KIB]]) {
    if (count >= size) return `${threeDigits(count / size)}\u00a0${unit}`;
  }
  return `${count}\u00a0B`;
}
function secondsText(seconds) {
  if (seconds < 1) return `${Math.round(1000 * seconds)}\u00a0ms`;
  if (seconds < 100) return `${threeDigits(seconds)}\u00a0s`;
  return longText(seconds);
}
// whole seconds: what grows while one looks at it does not flicker
function longText(seconds) {
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  const two = (number) => String(number).padStart(2, "0");
  if (minutes < 1) return `${whole}\u00a0s`;
  if (minutes < 60) return `${minutes}\u00a0min\u00a0${two(whole % 60)}\u00a0s`;
  return `${Math.floor(minutes / 60)}\u00a0h\u00a0${two(minutes % 60)}\u00a0min`;
}
// a score that is no number comes as null
const isEvaluated = (round) => "perplexity" in round || "accuracy" in round;
const measureOf = (round) => (round !== null && "perplexity" in round ? "perplexity" : "accuracy");
const scoreOf = (round) => round[measureOf(round)];
const scoreText = (value, measure) =>
  measure === "accuracy" ? `${(100 * value).toFixed(1)}\u00a0%` : threeDigits(value);
const orDash = (value, text) => (value === null || value === undefined ? "–" : text(value));
// logs and messages call a device by its number
function nameOf(status, number) {
  const name = status.devices[number]?.name ?? null;
  return name === null ? `device ${number}` : `${name} (device ${number})`;
}
const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

function timeUnit(largest) {
  if (largest < 1) return ["ms", 0.001];
  return largest < 1e4 ? ["s", 1] : largest < 6e5 ? ["min", 60] : ["h", 3600];
}
function phasesOf(seconds) {
  const parts = Object.entries(seconds ?? {}).filter(([, value]) => value > 0);
  const order = (key) => WORDS.phases.findIndex((own) => own.key === key) + 1 || 99;
  return parts.sort(([one], [other]) => order(one) - order(other))
    .map(([key, value]) => ({ ...known(WORDS.phases, key), value }));
}
