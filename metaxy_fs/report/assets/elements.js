"use strict";
// Elements and texts. Whatever comes from a store becomes text of a node or the value of an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; `on...` properties are listeners, and children that are null are left out. */
const make = (tag, properties = {}, ...children) => filled(document.createElement(tag), properties, children);
const draw = (tag, properties = {}, ...children) => filled(document.createElementNS(SVG, tag), properties, children);

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A text of somebody else, whose direction does not reach beyond it. */
const foreign = (text, properties = {}) => make("bdi", properties, text);

const many = (number) => number.toLocaleString("en");
const things = (number, noun) => `${many(number)} ${noun}${number === 1 ? "" : "s"}`;

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const brief = (number) => (number < 10_000 ? many(number) : compact.format(number));

function size(bytes) {
  const unit = Math.min(4, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** unit;
  return `${value.toLocaleString("en", { maximumFractionDigits: unit ? 1 : 0 })} ${["bytes", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** A time in UTC, as the page says at its end. */
const time = (milliseconds) => (milliseconds === null ? "never" : new Date(milliseconds).toISOString().slice(0, 16).replace("T", " "));
const day = (milliseconds) => time(milliseconds).slice(0, 10);
const moment = (milliseconds) => make("span", { class: "moment" }, time(milliseconds));

/** Cut the middle out of a text that is too long. */
function middle(text, most) {
  const characters = [...text];
  if (characters.length <= most) return text;
  const head = Math.ceil((most - 1) / 2);
  return characters.slice(0, head).join("") + "…" + characters.slice(characters.length - (most - 1 - head)).join("");
}

const cut = (text, most) => (text.length <= most ? text : text.slice(0, most - 1) + "…");

/** A table; a column is its heading, what it shows of a row, and whether that is a number. */
function table(columns, rows, properties = {}) {
  const kind = (column) => (column.number ? { class: "number" } : {});
  const head = columns.map((column) => make("th", { scope: "col", ...kind(column), ...column.heading }, column.title));
  const body = rows.map((row) => make("tr", {}, columns.map((column) => make("td", kind(column), column.cell(row)))));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": properties.label },
    make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
}

/** The state that a feature is in as a whole: what stands in its box, and colours it. */
function stateOf(feature) {
  const states = feature.states;
  if (!states) return feature.commits ? "unknown" : "empty";
  if (states.new + states.stale) return "due";
  if (states.waiting || states.missing.length) return "waiting";
  return feature.commits ? "current" : "empty";
}

const SIGNS = { current: "●", due: "▲", waiting: "◆", unknown: "●", empty: "○" };
const MEANINGS = { current: "nothing to compute", due: "to compute", waiting: "waits for upstream", unknown: "written", empty: "nothing written" };

function stateText(feature) {
  const states = feature.states;
  if (!states) return feature.commits ? things(feature.commits, "commit") : "nothing written";
  if (states.missing.length) return "upstream has no rows";
  const parts = ["new", "stale", "waiting", "orphaned"].filter((kind) => states[kind]).map((kind) => `${brief(states[kind])} ${kind}`);
  if (parts.length) return parts.join(" · ");
  return !feature.commits ? "nothing written" : feature.upstream.length ? "all current" : "source";
}

const codes = (feature) => feature.containers.map((each) => `${each.name} ${each.code}`).join(", ");

/** The sum of a figure of the files of a feature over all stores of a chain. */
const held = (name) => (feature) => feature.upkeep.reduce((sum, each) => sum + each[name], 0);
