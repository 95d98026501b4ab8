"use strict";
// The graph: d3-dag says where the boxes are; this draws them, and moves the picture by pointer, wheel and keys.

const LARGE = 300; // features, from which on the best places of boxes would take many seconds to find
const BOX = { width: 208, height: 66, gap: 22, between: 64 };
const NEAREST = 3, FARTHEST = 0.04, SMALLEST = 0.5, DETAILED = 0.62; // scales: the limits, that of names, that of all text

/** A drawn graph, in an element that has its place in the page already. */
class Graph {
  constructor(place, features, choose) {
    Object.assign(this, { features, choose, chosen: null, isTall: place.clientWidth < 700, view: { x: 0, y: 0, scale: 1 } });
    this.downstream = new Map(features.map((feature) => [feature.key, []]));
    this.upstream = new Map(features.map((feature) => [feature.key, feature.upstream.filter((key) => this.downstream.has(key))]));
    for (const [key, above] of this.upstream) above.forEach((each) => this.downstream.get(each).push(key));
    this.layOut();
    this.drawAll(place);
    this.listen();
    this.start();
  }

  layOut() {
    const builder = d3.graph();
    const nodes = new Map(this.features.map((feature) => [feature.key, builder.node(feature.key)]));
    for (const [key, above] of this.upstream) for (const each of above) builder.link(nodes.get(each), nodes.get(key));
    const across = this.isTall ? [BOX.width, BOX.height] : [BOX.height, BOX.width];
    const place = this.features.length > LARGE ? d3.coordGreedy() : d3.coordSimplex();
    const found = d3.sugiyama().coord(place).nodeSize(across).gap([BOX.gap, BOX.between])(builder);
    const turned = ([x, y]) => (this.isTall ? { x, y } : { x: y, y: x });
    this.size = turned([found.width, found.height]);
    this.places = new Map([...builder.nodes()].map((node) => [node.data, turned([node.x, node.y])]));
    this.edges = [...builder.links()].map((link) => ({ from: link.source.data, to: link.target.data, points: link.points.map(turned) }));
  }

  drawAll(place) {
    this.lines = this.edges.map((edge) => draw("path", { class: "edge", d: this.path(edge.points) }));
    this.boxes = new Map(this.features.map((feature) => [feature.key, this.box(feature)]));
    this.moving = draw("g", {}, draw("g", { "aria-hidden": "true" }, this.lines), [...this.boxes.values()]);
    this.svg = draw("svg", { role: "group", "aria-label": `Graph of ${things(this.features.length, "feature")}. Arrow keys go from box to box, Enter opens one.` }, this.moving);
    this.frame = draw("rect", { class: "frame" });
    this.map = draw("svg", { class: "map", "aria-hidden": "true", viewBox: `0 0 ${this.size.x} ${this.size.y}` },
      this.features.map((feature) => draw("rect", { class: stateOf(feature), ...this.corner(feature.key), width: BOX.width, height: BOX.height })), this.frame);
    const button = (sign, label, act) => make("button", { type: "button", "aria-label": label, title: label, onclick: act }, sign);
    const controls = make("div", { class: "controls" }, button("+", "Zoom in", () => this.zoom(1.4)), button("−", "Zoom out", () => this.zoom(1 / 1.4)), button("⤢", "Show all", () => this.fit()));
    const states = Object.keys(MEANINGS).filter((state) => this.features.some((feature) => stateOf(feature) === state));
    const legend = make("p", { class: "legend" }, states.map((state) => make("span", { class: state }, `${SIGNS[state]} ${MEANINGS[state]}`)));
    place.replaceChildren(this.svg, this.map, controls, legend);
  }

  corner(key) { return { x: this.places.get(key).x - BOX.width / 2, y: this.places.get(key).y - BOX.height / 2 }; }

  /** Straight where a line passes a column of boxes, bent between columns. */
  path(points) {
    const half = (this.isTall ? BOX.height : BOX.width) / 2;
    const at = ({ x, y }, by) => (this.isTall ? [x, y + by] : [x + by, y]);
    const parts = [`M${at(points[0], half)}`];
    points.slice(1).forEach((point, number) => {
      const [ax, ay] = at(points[number], half), [bx, by] = at(point, -half);
      const bend = this.isTall ? `${ax},${(ay + by) / 2} ${bx},${(ay + by) / 2}` : `${(ax + bx) / 2},${ay} ${(ax + bx) / 2},${by}`;
      parts.push(`C${bend} ${bx},${by}`);
      if (number < points.length - 2) parts.push(`L${at(point, half)}`);
    });
    return parts.join("");
  }

  box(feature) {
    const { x, y } = this.corner(feature.key);
    const state = stateOf(feature);
    const facts = `${brief(feature.rows)} ${feature.rows === 1 ? "row" : "rows"} · ${codes(feature) || "not declared"}`;
    const line = (kind, at, text) => draw("text", { class: kind, x: 14, y: at }, text);
    const [, before, last] = /^(.*\/)?([^/]*)$/.exec(feature.key);
    return draw("g", { class: `box ${state}`, role: "button", tabindex: -1, transform: `translate(${x},${y})`,
      "aria-label": `${feature.key}: ${things(feature.rows, "row")}, ${stateText(feature)}`,
      onclick: () => this.choose(feature.key, false), onfocus: () => this.show(feature.key) },
    draw("title", {}, feature.key), draw("rect", { width: BOX.width, height: BOX.height, rx: 7 }), draw("rect", { class: "edge-of-box", width: 5, height: BOX.height, rx: 2 }),
    line("name near", 21, middle(feature.key, 25)), line("facts near", 39, cut(facts, 28)), line("state near", 56, `${SIGNS[state]} ${cut(stateText(feature), 27)}`),
    before ? line("facts far", 26, middle(before, 16)) : null, line("name far", before ? 52 : 40, middle(last, 14)));
  }

  listen() {
    const pointers = new Map();
    let moved = 0;
    this.svg.addEventListener("pointerdown", (event) => (pointers.set(event.pointerId, event), moved = 0));
    this.svg.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const [other] = [...pointers.values()].filter((each) => each.pointerId !== event.pointerId);
      if (other) this.zoom(apart(event, other) / apart(before, other), this.inside(other));
      this.view.x += (event.clientX - before.clientX) / (other ? 2 : 1);
      this.view.y += (event.clientY - before.clientY) / (other ? 2 : 1);
      moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
      if (moved > 4) this.svg.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event);
      this.move();
    });
    for (const name of ["pointerup", "pointercancel"]) this.svg.addEventListener(name, (event) => pointers.delete(event.pointerId));
    this.svg.addEventListener("click", (event) => moved > 4 && event.stopPropagation(), true);
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)), this.inside(event));
    }, { passive: false });
    this.svg.addEventListener("keydown", (event) => this.press(event));
    let width = this.svg.clientWidth, height = this.svg.clientHeight;
    new ResizeObserver(() => {  // what is in the middle stays there
      this.view.x += (this.svg.clientWidth - width) / 2;
      this.view.y += (this.svg.clientHeight - height) / 2;
      [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
      this.move();
      if (this.chosen) this.show(this.chosen);
    }).observe(this.svg);
    this.map.addEventListener("click", (event) => this.centre(new DOMPoint(event.clientX, event.clientY).matrixTransform(this.map.getScreenCTM().inverse())));
  }

  press(event) {
    const key = this.current;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in ways) this.focus(this.next(key, ways[event.key]));
    else if (event.key === "Enter" || event.key === " ") this.choose(key, true);
    else if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  /** The nearest box that way; one that a line leads to counts as twice as near. */
  next(key, [right, down]) {
    const here = this.places.get(key);
    const linked = new Set([...this.upstream.get(key), ...this.downstream.get(key)]);
    const distances = [...this.places].map(([other, there]) => {
      const along = (there.x - here.x) * right + (there.y - here.y) * down;
      const aside = Math.abs((there.x - here.x) * down) + Math.abs((there.y - here.y) * right);
      return [along > 1 ? (along + 3 * aside) / (linked.has(other) ? 2 : 1) : Infinity, other];
    });
    const [distance, nearest] = distances.reduce((best, each) => (each[0] < best[0] ? each : best), [Infinity, key]);
    return distance < Infinity ? nearest : key;
  }

  focus(key) { this.boxes.get(key).focus({ preventScroll: true }); }

  /** Make a box the one that Tab comes to, and see that it is in the picture. */
  show(key) {
    this.boxes.get(this.current)?.setAttribute("tabindex", -1);
    this.current = key;
    this.boxes.get(key).setAttribute("tabindex", 0);
    const { x, y, scale } = this.view, at = this.places.get(key);
    const left = x + (at.x - BOX.width / 2) * scale, top = y + (at.y - BOX.height / 2) * scale;
    const isInside = left >= 0 && top >= 0 && left + BOX.width * scale <= this.svg.clientWidth && top + BOX.height * scale <= this.svg.clientHeight;
    if (!isInside || scale < SMALLEST) this.centre(at, Math.max(scale, SMALLEST));
  }

  /** Put a feature, and all that it is made from and that is made from it, before the others. */
  highlight(key) {
    this.chosen = key;
    const near = key === null ? this.boxes : new Set([...this.reach(key, this.upstream), ...this.reach(key, this.downstream)]);
    for (const [each, box] of this.boxes) {
      box.classList.toggle("dim", !near.has(each));
      box.classList.toggle("chosen", each === key);
    }
    const kind = ({ from, to }) => (key === null ? "" : near.has(from) && near.has(to) ? "lit" : "dim");
    this.edges.forEach((edge, number) => this.lines[number].setAttribute("class", `edge ${kind(edge)}`));
  }

  reach(key, neighbours) {
    const found = new Set([key]);
    for (const each of found) neighbours.get(each).forEach((next) => found.add(next));
    return found;
  }

  mark(keys) { for (const [key, box] of this.boxes) box.classList.toggle("unfound", keys !== null && !keys.has(key)); }

  inside(event) {
    const box = this.svg.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  zoom(factor, at = { x: this.svg.clientWidth / 2, y: this.svg.clientHeight / 2 }) {
    const scale = Math.min(NEAREST, Math.max(FARTHEST, this.view.scale * factor));
    const by = scale / this.view.scale;
    this.view = { x: at.x - (at.x - this.view.x) * by, y: at.y - (at.y - this.view.y) * by, scale };
    this.move();
  }

  centre({ x, y }, scale = this.view.scale) {
    this.view = { x: this.svg.clientWidth / 2 - x * scale, y: this.svg.clientHeight / 2 - y * scale, scale };
    this.move();
  }

  fit() {
    const scale = Math.min((this.svg.clientWidth - 32) / this.size.x, (this.svg.clientHeight - 32) / this.size.y, 1.1);
    this.centre({ x: this.size.x / 2, y: this.size.y / 2 }, Math.max(FARTHEST, scale));
  }

  /** All of a small graph; of a large one the part with the most boxes, as far as their names can be read. */
  start() {
    this.current = this.features[0].key;
    this.boxes.get(this.current).setAttribute("tabindex", 0);
    this.fit();
    if (this.view.scale >= SMALLEST) return;
    const corners = [...this.boxes.keys()].map((key) => this.corner(key));
    const width = this.svg.clientWidth / SMALLEST - BOX.width, height = this.svg.clientHeight / SMALLEST - BOX.height;
    const around = (corner) => corners.filter(({ x, y }) => x >= corner.x && y >= corner.y && x < corner.x + width && y < corner.y + height).length;
    const [, { x, y }] = corners.map((corner) => [around(corner), corner]).reduce((best, each) => (each[0] > best[0] ? each : best));
    this.view = { x: 24 - x * SMALLEST, y: 24 - y * SMALLEST, scale: SMALLEST };
    this.move();
  }

  move() {
    const { x, y, scale } = this.view;
    this.moving.setAttribute("transform", `translate(${x},${y}) scale(${scale})`);
    this.svg.classList.toggle("is-far", scale < DETAILED);
    const width = this.svg.clientWidth / scale, height = this.svg.clientHeight / scale;
    for (const [name, value] of Object.entries({ x: -x / scale, y: -y / scale, width, height })) this.frame.setAttribute(name, value);
    this.map.classList.toggle("is-needed", width < this.size.x || height < this.size.y);
  }
}

const apart = (one, other) => Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY));
