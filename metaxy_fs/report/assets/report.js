"use strict";
// Put the page together: stores, views, search, the panel, and the choice of colours.

const REPORT = JSON.parse(document.getElementById("facts").textContent);
const page = Object.fromEntries(["made", "store", "finding", "search", "found", "theme", "summary", "tabs", "views", "panel"].map((name) => [name, document.getElementById(name)]));
const shown = { store: null, view: "graph", feature: null, graph: null, from: null, sort: null };

function start() {
  page.made.textContent = `report of ${time(REPORT.made)} UTC, by ${REPORT.version}`;
  page.store.append(...REPORT.stores.map((store, number) => make("option", { value: number, dir: "auto" }, middle(store.location, 60))));
  page.store.hidden = REPORT.stores.length < 2;
  page.store.addEventListener("change", () => choose(REPORT.stores[page.store.value]));
  page.search.addEventListener("input", search);
  page.finding.addEventListener("submit", (event) => (event.preventDefault(), nextFound()));
  page.theme.addEventListener("click", () => colour(!isDark()));
  document.addEventListener("keydown", shortcuts);
  const preference = window.matchMedia("(prefers-color-scheme: dark)");
  preference.addEventListener("change", () => colour(preference.matches));
  colour(preference.matches);
  choose(REPORT.stores[0]);
}

function choose(store) {
  shown.store = store;
  closePanel();
  summarize();
  const views = [["graph", "Graph"], ["table", "Table"], ...(REPORT.stores.length > 1 ? [["stores", "Side by side"]] : []), ["snapshots", `Snapshots (${store.snapshots.length})`], ["notes", `Notes (${store.notes.length})`]];
  page.tabs.replaceChildren(...views.map(([view, title]) => make("button", { type: "button", role: "tab", id: `tab-${view}`, "aria-controls": "views", onclick: () => see(view) }, title)));
  page.tabs.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], tabs = [...page.tabs.children];
    const tab = step && tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    if (tab) tab.focus(), tab.click();
  };
  see(views.some(([view]) => view === shown.view) ? shown.view : "graph");
}

function summarize() {
  const features = shown.store.features;
  const sum = (value) => features.reduce((total, feature) => total + value(feature), 0);
  const counted = features.some((feature) => feature.states);
  const tile = (value, name, kind) => make("div", { class: `tile ${kind ?? ""}` }, make("b", {}, value), make("span", {}, name));
  const state = (kind) => sum((feature) => feature.states?.[kind] ?? 0);
  page.summary.replaceChildren(
    make("div", { class: "tile wide" }, make("b", {}, foreign(middle(shown.store.location, 60), { title: shown.store.location })),
      make("span", {}, shown.store.chain.length > 1 ? ["falls back on ", foreign(middle(shown.store.chain.slice(1).join(", "), 60))] : shown.store.is_declared ? "graph of the present code" : "graph as it is stored")),
    tile(many(features.length), "features"), tile(brief(sum((feature) => feature.rows)), "rows written"), tile(size(sum(held("bytes"))), "in data files"),
    ...(counted ? ["new", "stale", "waiting", "orphaned"].map((kind) => tile(brief(state(kind)), kind, state(kind) ? kind : "none")) : []),
    tile(many(sum(held("due"))), "manifests to compact", sum(held("due")) ? "todo" : "none"), tile(size(sum(held("removable_bytes"))), "to vacuum", sum(held("removable_bytes")) ? "todo" : "none"));
}

function see(view) {
  shown.view = view;
  shown.graph = null;
  for (const tab of page.tabs.children) {
    const isShown = tab.id === `tab-${view}`;
    tab.setAttribute("aria-selected", isShown);
    tab.tabIndex = isShown ? 0 : -1;
  }
  page.views.replaceChildren();
  page.views.className = view;
  page.views.setAttribute("aria-labelledby", `tab-${view}`);
  if (view === "graph" && shown.store.features.length) {
    shown.graph = new Graph(page.views, shown.store.features, openPanel);
    shown.graph.highlight(shown.feature);
  } else page.views.append({ graph: () => quiet("There is no feature."), table: featureTable, stores: sideBySide, snapshots: snapshotTable, notes: noteList }[view]());
  search();
}

const faint = (number, shownAs) => (number ? shownAs(number) : make("span", { class: "quiet" }, "0"));
const openButton = (feature) => make("button", { type: "button", class: "open", onclick: () => openPanel(feature.key, true) }, foreign(feature.key));

function featureTable() {
  const state = (kind) => ({ title: kind[0].toUpperCase() + kind.slice(1), number: true, value: (row) => row.states?.[kind] ?? -1, cell: (row) => (row.states ? faint(row.states[kind], many) : "") });
  const number = (title, value, shownAs = many) => ({ title, number: true, value, cell: (row) => faint(value(row), shownAs) });
  const columns = [
    { title: "Feature", value: (row) => row.key, cell: openButton },
    { title: "Code", value: codes, cell: (row) => foreign(middle(codes(row), 60)) },
    number("Rows", (row) => row.rows), number("Commits", (row) => row.commits),
    { title: "Last write", value: (row) => row.last ?? 0, cell: (row) => moment(row.last) },
    ...["new", "stale", "waiting", "orphaned"].map(state),
    number("Files", held("files")), number("Size", held("bytes"), size),
    number("To compact", held("due")), number("To vacuum", held("removable_bytes"), size),
  ];
  const sorted = shown.sort && columns.find((column) => column.title === shown.sort.title);
  const order = (one, other) => (one < other ? -1 : one > other ? 1 : 0) * (shown.sort.isUp ? 1 : -1);
  const rows = found().sort((one, other) => (sorted ? order(sorted.value(one), sorted.value(other)) : 0));
  const by = (column) => {
    shown.sort = { title: column.title, isUp: shown.sort?.title === column.title ? !shown.sort.isUp : !column.number };
    see("table");
    [...page.views.querySelectorAll("th button")].find((button) => button.textContent.startsWith(column.title)).focus();
  };
  const headed = columns.map((column) => {
    const direction = column === sorted ? (shown.sort.isUp ? "ascending" : "descending") : null;
    const sign = direction ? (shown.sort.isUp ? " ▴" : " ▾") : "";
    return { ...column, heading: { "aria-sort": direction }, title: make("button", { type: "button", onclick: () => by(column) }, column.title + sign) };
  });
  return table(headed, rows, { label: "Features" });
}

function sideBySide() {
  const keys = [...new Set(REPORT.stores.flatMap((store) => store.features.map((feature) => feature.key)))];
  const there = (store, key) => store.features.find((feature) => feature.key === key);
  const cell = (store) => (key) => {
    const feature = there(store, key);
    if (!feature?.commits) return make("span", { class: "quiet" }, feature ? "nothing written" : "not there");
    const first = there(REPORT.stores[0], key);
    const differs = first && comparison(first, feature) !== "the same";
    return [`${things(feature.rows, "row")}, ${day(feature.last)}`, make("br"), make("small", { class: differs ? "todo" : "" }, differs ? "▲ another definition: " : "", foreign(middle(codes(feature), 40)))];
  };
  const columns = REPORT.stores.map((store) => ({ title: foreign(middle(store.location, 40)), cell: cell(store) }));
  return table([{ title: "Feature", cell: (key) => foreign(key) }, ...columns], keys.filter((key) => matches(key, words())), { label: "Stores side by side" });
}

const snapshotTable = () => (shown.store.snapshots.length ? table([
  { title: "Name", cell: (row) => foreign(row.name) }, { title: "Made", cell: (row) => moment(row.time) }, { title: "Commits", number: true, cell: (row) => many(row.commits) },
  { title: "Features", cell: (row) => foreign(row.features.join(", ")) }], shown.store.snapshots, { label: "Snapshots" }) : quiet("There is no snapshot."));
const noteList = () => (shown.store.notes.length ? make("ul", {}, shown.store.notes.map((note) => make("li", {}, foreign(note)))) : quiet("There is nothing to note about the graph."));

const words = () => page.search.value.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (text, wanted) => wanted.every((word) => text.toLowerCase().includes(word));
const found = () => shown.store.features.filter((feature) => matches(`${feature.key} ${codes(feature)} ${stateText(feature)}`, words()));

function search(event) {
  const hits = found(), isOn = words().length > 0;
  page.found.textContent = isOn ? `${many(hits.length)} of ${many(shown.store.features.length)}` : "";
  shown.graph?.mark(isOn ? new Set(hits.map((feature) => feature.key)) : null);
  if (!event) return;
  if (["table", "stores"].includes(shown.view)) see(shown.view);
  if (isOn && hits.length && shown.graph) shown.graph.show(hits[0].key);
  shown.from = null;
}

/** Enter goes through what was found, and opens it. */
function nextFound() {
  const keys = found().map((feature) => feature.key);
  if (!keys.length || !words().length) return;
  shown.from = keys[(keys.indexOf(shown.from) + 1) % keys.length];
  shown.graph?.show(shown.from);
  openPanel(shown.from, false);
}

function openPanel(key, takesFocus) {
  const feature = shown.store.features.find((each) => each.key === key);
  if (!feature) return;
  shown.feature = key;
  const others = REPORT.stores.filter((store) => store !== shown.store);
  const open = (other) => (shown.graph?.show(other), openPanel(other, true));
  page.panel.replaceChildren(...panelOf(feature, shown.store, { open, close: closePanel, others }).filter(Boolean));
  page.panel.hidden = false;
  page.panel.setAttribute("aria-label", `Feature ${key}`);
  page.panel.scrollTop = 0;
  shown.graph?.highlight(key);
  if (takesFocus) page.panel.querySelector("h2").focus();
}

function closePanel() {
  const key = shown.feature, hadFocus = page.panel.contains(document.activeElement);
  shown.feature = null;
  page.panel.hidden = true;
  shown.graph?.highlight(null);
  if (!hadFocus) return;
  if (shown.graph) shown.graph.focus(key);
  else page.views.querySelector("button.open")?.focus();
}

function shortcuts(event) {
  if (event.key === "Escape" && !page.panel.hidden) closePanel();
  else if (event.key === "/" && document.activeElement !== page.search) (event.preventDefault(), page.search.focus());
}

const isDark = () => document.documentElement.classList.contains("dark");

function colour(dark) {
  document.documentElement.classList.toggle("dark", dark);
  page.theme.textContent = dark ? "☀" : "☾";
  page.theme.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
}

start();
