"use strict";
// The panel of one feature: its states, code, definitions and commits over time, files, and what is due.

/** Return what the panel shows of a feature; `open` goes to another one, `others` are the other stores of the report. */
function panelOf(feature, store, { open, close, others }) {
  return [
    make("div", { class: "panel-head" },
      make("h2", { tabindex: -1 }, foreign(feature.key)),
      make("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "✕")),
    make("p", { class: `badge ${stateOf(feature)}` }, `${SIGNS[stateOf(feature)]} ${stateText(feature)}`),
    facts([
      ["Rows written", many(feature.rows)], ["Commits", many(feature.commits)], ["Bytes written", size(feature.bytes)],
      ["Last write", time(feature.last)], ["Samples by", feature.ids.length ? foreign(feature.ids.join(", ")) : "not known"],
    ]),
    part("Samples by state", statesPart(feature, store)),
    part("Made from", links(feature.upstream, open, "Nothing: a source.")),
    part("Used by", links(store.features.filter((each) => each.upstream.includes(feature.key)).map((each) => each.key), open, "Nothing.")),
    part("Containers", containersPart(feature)),
    part("Definitions over time", definitionsPart(feature)),
    part("Commits", commitsPart(feature)),
    part("Files and upkeep", upkeepPart(feature)),
    part("Snapshots", snapshotsPart(feature, store)),
    others.length ? part("In other stores", othersPart(feature, others)) : null,
  ];
}

const part = (title, content) => make("section", {}, make("h3", {}, title), content);
const facts = (pairs) => make("dl", {}, pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
const quiet = (text) => make("p", { class: "quiet" }, text);

function links(keys, open, none) {
  if (!keys.length) return quiet(none);
  return make("ul", { class: "links" }, keys.map((key) => make("li", {}, make("button", { type: "button", onclick: () => open(key) }, foreign(key)))));
}

function statesPart(feature, store) {
  const states = feature.states;
  if (!states) return quiet("Not counted.");
  const of = store.is_declared ? "of the present code" : "of the graph that is stored";
  const kinds = ["new", "stale", "waiting", "orphaned"];
  return [
    make("ul", { class: "counts" }, kinds.map((kind) => make("li", { class: states[kind] ? kind : "none" }, make("b", {}, many(states[kind])), ` ${kind}`))),
    states.missing.length ? quiet(["Nothing can be counted before there are rows of ", foreign(states.missing.join(", ")), "."]) : null,
    ...states.causes.map(([cause, samples]) => make("p", { class: "cause" }, `${many(samples)} stale by `, foreign(cause))),
    quiet(`As a run ${of} would find them.`),
  ];
}

function containersPart(feature) {
  if (!feature.containers.length) return quiet("The declaration is not known.");
  return table([
    { title: "Name", cell: (row) => foreign(row.name) },
    { title: "Code", cell: (row) => foreign(row.code) },
    { title: "Made from", cell: (row) => (feature.upstream.length ? foreign(row.made_from) : "what the writer gives") },
    { title: "Versioned by", cell: (row) => (feature.upstream.length ? row.versioned_by : "writer") },
  ], feature.containers, { label: "Containers" });
}

function definitionsPart(feature) {
  if (!feature.definitions.length) return quiet("None was written under.");
  const first = Math.min(...feature.definitions.map((each) => each.first)), last = Math.max(...feature.definitions.map((each) => each.last));
  const share = (moment) => (last > first ? ((moment - first) / (last - first)) * 100 : 0);
  const span = (row) => draw("svg", { class: "span", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": `${day(row.first)} to ${day(row.last)}` },
    draw("rect", { class: "track", width: 100, height: 8, rx: 2 }), draw("rect", { x: Math.min(share(row.first), 98), width: Math.max(2, share(row.last) - share(row.first)), height: 8, rx: 2 }));
  const stores = new Set(feature.definitions.map((each) => each.store));
  return table([
    { title: "Code", cell: (row) => [foreign(row.code ?? "not kept"), make("code", { title: row.version }, row.version.slice(0, 10))] },
    { title: "When", cell: (row) => [span(row), make("small", {}, day(row.first) === day(row.last) ? day(row.first) : `${day(row.first)} to ${day(row.last)}`)] },
    { title: "Commits", number: true, cell: (row) => many(row.commits) },
    { title: "Rows", number: true, cell: (row) => many(row.rows) },
    ...(stores.size > 1 ? [{ title: "Store", cell: (row) => foreign(row.store) }] : []),
  ], feature.definitions, { label: "Definitions" });
}

function commitsPart(feature) {
  if (!feature.commits) return quiet("None yet.");
  const older = feature.commits - feature.newest.length;
  return [
    timeline(feature),
    make("details", { open: feature.newest.length <= 8 }, make("summary", {}, older ? `The newest ${many(feature.newest.length)} of ${many(feature.commits)}` : things(feature.commits, "commit")),
      table([
        { title: "Time", cell: (row) => [moment(row[0]), make("code", { title: row[1] }, row[1].slice(-16))] },
        { title: "Rows", number: true, cell: (row) => [many(row[2]), row[3] ? make("small", {}, ` ${many(row[3])} retired`) : null] },
        { title: "Size", number: true, cell: (row) => size(row[4]) },
        { title: "Definition and tags", cell: (row) => [make("code", { title: row[5] }, row[5].slice(0, 10)), foreign(row[7])] },
      ], feature.newest, { label: "Commits, the newest first" })),
  ];
}

/** Bars of rows by period; a period with commits that wrote no row still has a foot. */
function timeline(feature) {
  const periods = feature.timeline, first = periods[0][0], last = feature.last;
  const most = Math.max(1, ...periods.map((each) => each[2])), wide = 400, high = 64, thick = 6;
  const bars = periods.map(([start, commits, rows]) => {
    const height = 3 + (rows / most) * (high - 3);
    const x = last > first ? ((start - first) / (last - first + 1)) * (wide - thick) : wide / 2;
    return draw("rect", { x, y: high - height, width: thick, height, rx: 1.5 }, draw("title", {}, `${time(start)}: ${things(commits, "commit")}, ${things(rows, "row")}`));
  });
  const label = `${things(feature.commits, "commit")} from ${time(first)} to ${time(last)}`;
  return make("figure", {}, draw("svg", { class: "timeline", viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, bars),
    make("figcaption", {}, make("span", {}, day(first)), make("span", {}, "rows by time of the commit"), make("span", {}, day(last))));
}

function upkeepPart(feature) {
  return feature.upkeep.length ? feature.upkeep.map((row) => [
    feature.upkeep.length > 1 ? make("h4", {}, foreign(row.store)) : null,
    facts([["Data files", many(row.files)], ["They take", size(row.bytes)], ["Manifests", many(row.manifests)]]),
    make("p", { class: row.due ? "todo" : "quiet" }, row.due ? `▲ Compaction would merge ${things(row.due, "manifest")}.` : "Compaction has nothing to do."),
    make("p", { class: row.removable ? "todo" : "quiet" }, row.removable ? `▲ Vacuum finds ${things(row.removable, "object")} that nothing needs (${size(row.removable_bytes)}); those that are old enough go.` : "Vacuum has nothing to remove."),
  ]).flat() : quiet("No files.");
}

function snapshotsPart(feature, store) {
  const seen = store.snapshots.filter((each) => each.features.includes(feature.key));
  return seen.length ? make("ul", {}, seen.map((each) => make("li", {}, foreign(each.name), make("small", {}, ` ${time(each.time)}`)))) : quiet("None sees it.");
}

function othersPart(feature, others) {
  return table([
    { title: "Store", cell: ([store]) => foreign(store.location) },
    { title: "Rows", number: true, cell: ([, there]) => (there ? many(there.rows) : "none") },
    { title: "Last write", cell: ([, there]) => (there ? time(there.last) : "") },
    { title: "Definition", cell: ([, there]) => (there ? comparison(feature, there) : "") },
  ], others.map((store) => [store, store.features.find((each) => each.key === feature.key)]), { label: "In other stores" });
}

function comparison(here, there) {
  const [one, other] = [here, there].map((each) => each.definitions[0]?.version);
  return one === other ? "the same" : "another";
}
