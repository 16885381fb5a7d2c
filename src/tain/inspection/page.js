// Reads the packed data below the page and lets a reader pick model, text, layer, head, method and token. Loads nothing.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const state = { model: 0, text: 0, layer: 0, head: "all", method: "AttnResLn-N", token: 0, pair: 0, side: "left", word: 0 };
const element = (name) => document.getElementById(name);
const SHOWN_SOURCES = 12;
const SHARES = ["Attn-W", "AttnRes-W", "Roll-out"]; // methods whose rows sum to 1

// ---- packed numbers

const unpacked = new Map();

function words(text) {
  if (!unpacked.has(text)) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    unpacked.set(text, new Uint16Array(bytes.buffer));
  }
  return unpacked.get(text);
}

function half(word) {
  const sign = word & 0x8000 ? -1 : 1, exponent = (word >> 10) & 31, fraction = word & 1023;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// one row of a packed table, as [place, number] pairs
function packedRow(packed, table, row, rows) {
  const values = words(packed.values), places = packed.places ? words(packed.places) : null, found = [];
  for (let step = 0; step < packed.kept; step++) {
    const number = half(values[(table * rows + row) * packed.kept + step]);
    found.push([places ? places[row * packed.kept + step] : step, number]);
  }
  return found;
}

function ratio(model, text, layer, method, token) {
  const count = text.tokens.length, at = (layer * model.methods.length + model.methods.indexOf(method)) * count + token;
  return words(text.ratios)[at] / 65535;
}

// what a token's vector is made of: [place, number] pairs, largest first
function sources(model, text, chosen, row) {
  const count = text.tokens.length;
  let found;
  if (chosen.head !== "all") {
    const head = Number(chosen.head), lengths = words(text.lengths);
    found = packedRow(text.heads[chosen.layer][head], 0, row, count);
    if (chosen.method === "Attn-N") {
      const start = (chosen.layer * model.heads + head) * count;
      found = found.map(([place, weight]) => [place, weight * half(lengths[start + place])]);
    }
  } else {
    const wanted = chosen.method === "AttnRes-W" ? "Attn-W" : chosen.method;
    const table = model.matrices.includes(wanted) ? wanted : "AttnRes-N"; // before and behind a normalisation that comes first are the same
    found = packedRow(text.layers[chosen.layer], model.matrices.indexOf(table), row, count);
    if (chosen.method === "AttnRes-W") found = found.map(([place, weight]) => [place, weight / 2 + (place === row ? 0.5 : 0)]);
  }
  return found.sort((one, other) => other[1] - one[1]);
}

// ---- words

const percent = (value) => `${(100 * value).toFixed(1)}%`;
const shown = (value) => (SHARES.includes(state.method) ? percent(value) : value.toPrecision(3));
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
const named = (text, place) => `“${text.tokens[place]}”`;
const plainText = (text) => (text.text.length > 60 ? `${text.text.slice(0, 60)}…` : text.text);

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- controls

function fill(name, options) {
  const select = element(name), label = select.closest("label");
  select.replaceChildren(...options.map(([value, words]) => make("option", { value }, words)));
  label.hidden = options.length < 2;
  const wanted = String(state[name]);
  if (!options.some(([value]) => String(value) === wanted)) state[name] = options[0][0];
  select.value = String(state[name]);
}

function fillControls() {
  const model = data.models[state.model], text = model.texts[state.text];
  fill("model", data.models.map((each, place) => [place, each.name]));
  fill("text", model.texts.map((each, place) => [place, `${place + 1}: ${plainText(each)}`]));
  fill("layer", Array.from({ length: model.layers }, (_, place) => [place, `${place + 1} of ${model.layers}`]));
  const heads = text.heads ? Array.from({ length: model.heads }, (_, place) => [String(place), `${place + 1} of ${model.heads}`]) : [];
  fill("head", [["all", "all together"], ...heads]);
  fill("method", (state.head === "all" ? model.methods : ["Attn-W", "Attn-N"]).map((method) => [method, method]));
}

function readAddress() {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name in state) state[name] = typeof state[name] === "number" ? Number(value) || 0 : value;
  }
  settle();
}

function writeAddress() {
  try {
    history.replaceState(null, "", `#${new URLSearchParams(Object.entries(state))}`);
  } catch { /* a page shown inside another has no address to change */ }
}

// keep every choice within what there is
function settle() {
  const within = (value, count) => Math.min(Math.max(0, value), count - 1);
  state.model = within(state.model, data.models.length);
  const model = data.models[state.model];
  state.text = within(state.text, model.texts.length);
  state.layer = within(state.layer, model.layers);
  state.token = within(state.token, model.texts[state.text].tokens.length);
  if (state.head !== "all" && !(Number(state.head) < model.heads && model.texts[state.text].heads)) state.head = "all";
  if (state.head !== "all" && !["Attn-W", "Attn-N"].includes(state.method)) state.method = "Attn-N";
  if (!model.methods.includes(state.method)) state.method = model.methods[0];
}

// ---- colours: light to dark means little to much, in grey as well

function colours() {
  const style = getComputedStyle(document.documentElement);
  const parsed = (name) => style.getPropertyValue(name).trim().slice(1).match(/../g).map((part) => parseInt(part, 16));
  const low = parsed("--low"), high = parsed("--high");
  return {
    at: (share) => `rgb(${low.map((value, place) => Math.round(value + (high[place] - value) * Math.min(1, Math.max(0, share)))).join(",")})`,
    ink: style.getPropertyValue("--ink"), quiet: style.getPropertyValue("--quiet"), choice: style.getPropertyValue("--choice"),
    against: style.getPropertyValue("--against"),
  };
}

function canvasOf(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const drawing = canvas.getContext("2d");
  drawing.scale(scale, scale);
  drawing.clearRect(0, 0, width, height);
  return drawing;
}

// ---- the map of all layers

const MAP_LEFT = 34, ROW = 20;

function drawMaps() {
  const palette = colours();
  data.models.forEach((model, place) => {
    const text = model.texts[Math.min(state.text, model.texts.length - 1)], canvas = element(`map-${place}`);
    const method = state.head === "all" ? state.method : "Attn-N", count = text.tokens.length;
    const cell = Math.max(4, Math.min(34, Math.floor(900 / count))), labels = cell >= 15 ? 74 : 0;
    const drawing = canvasOf(canvas, MAP_LEFT + cell * count + 4, ROW * model.layers + labels + 4);
    canvas.dataset.cell = cell;
    drawing.font = "11px system-ui, sans-serif";
    for (let layer = 0; layer < model.layers; layer++) {
      drawing.fillStyle = palette.quiet;
      drawing.textAlign = "right";
      drawing.fillText(layer + 1, MAP_LEFT - 8, ROW * layer + 14);
      for (let token = 0; token < count; token++) {
        drawing.fillStyle = palette.at(ratio(model, text, layer, method, token));
        drawing.fillRect(MAP_LEFT + cell * token, ROW * layer, cell > 6 ? cell - 1 : cell, ROW - 1);
      }
    }
    if (labels) {
      drawing.textAlign = "right";
      text.tokens.forEach((token, number) => {
        drawing.save();
        drawing.translate(MAP_LEFT + cell * (number + 0.5) + 4, ROW * model.layers + 8);
        drawing.rotate(-Math.PI / 3);
        drawing.fillStyle = number === state.token ? palette.ink : palette.quiet;
        drawing.fillText(token.slice(0, 11), 0, 0);
        drawing.restore();
      });
    }
    drawing.strokeStyle = palette.choice;
    drawing.lineWidth = 2;
    if (state.layer < model.layers && state.token < count) {
      drawing.strokeRect(MAP_LEFT + cell * state.token, ROW * state.layer, Math.max(cell - 1, 3), ROW - 1);
    }
    bringIntoView(canvas.parentElement, { left: MAP_LEFT + cell * state.token, width: cell });
    const label = `Heat map of ${model.name}: ${method}, ${model.layers} layers by ${count} tokens. Arrow keys move by layer and token.`;
    canvas.setAttribute("aria-label", label);
  });
}

// ---- one layer's flows

// scrolls a box, and not the page, until one of its parts can be seen
function bringIntoView(box, { left = box.scrollLeft, top = box.scrollTop, width = 0, height = 0 }) {
  if (left < box.scrollLeft || left + width > box.scrollLeft + box.clientWidth) box.scrollLeft = left - box.clientWidth / 2;
  if (top < box.scrollTop || top + height > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 2;
}

function drawTokens() {
  const model = data.models[state.model], text = model.texts[state.text];
  const found = sources(model, text, state, state.token);
  const largest = Math.max(...found.map(([, value]) => Math.abs(value)), 1e-30);
  const share = new Map(found.map(([place, value]) => [place, value / largest]));
  [...element("tokens").children].forEach((chip, place) => {
    const part = share.get(place) ?? 0;
    chip.setAttribute("aria-selected", place === state.token);
    chip.tabIndex = place === state.token ? 0 : -1;
    chip.style.backgroundColor = `rgba(var(--flow), ${(0.75 * part).toFixed(3)})`;
    chip.style.borderBottomColor = part > 0.05 ? `rgba(var(--flow), ${Math.max(0.35, part).toFixed(3)})` : "transparent";
  });
  element("sources").replaceChildren(
    ...found.slice(0, SHOWN_SOURCES).map(([place, value]) =>
      make("tr", { "data-place": place, "data-value": value },
        make("th", { scope: "row" }, text.tokens[place], place === state.token ? " (itself)" : ""),
        make("td", { class: "number" }, String(place + 1)),
        make("td", { class: "number" }, shown(value)),
        make("td", { class: "bars" }, make("span", { class: "bar", style: `width:${(100 * Math.max(0, value) / largest).toFixed(1)}%` })))));
  const list = element("tokens"), chosen = list.children[state.token];
  bringIntoView(list, { top: chosen.offsetTop - list.offsetTop, height: chosen.offsetHeight });
  const head = state.head === "all" ? "all heads together" : `head ${Number(state.head) + 1}`;
  const where = `Layer ${state.layer + 1}, ${head}, ${state.method}: token ${state.token + 1} ${named(text, state.token)}`;
  const others = found.filter(([place]) => place !== state.token);
  const most = others.length ? ` Most from token ${others[0][0] + 1} ${named(text, others[0][0])} (${shown(others[0][1])}).` : "";
  const mixed = ratio(model, text, state.layer, state.method, state.token);
  const said = state.head === "all" ? ` takes ${percent(mixed)} from other tokens.` : ".";
  element("said").textContent = where + said + most;
  element("said").dataset.ratio = mixed;
  const kept = (state.head === "all" ? text.layers[state.layer] : text.heads[state.layer][Number(state.head)]).kept;
  element("kept").textContent = kept < text.tokens.length
    ? `For each token this page keeps its ${kept} largest sources of ${text.tokens.length}; all of them are in the Python results.` : "";
}

function drawMatrix() {
  const model = data.models[state.model], text = model.texts[state.text], palette = colours(), count = text.tokens.length;
  const cell = Math.max(1, Math.min(18, Math.floor(440 / count)));
  const drawing = canvasOf(element("matrix"), cell * count, cell * count);
  drawing.fillStyle = palette.at(0);
  drawing.fillRect(0, 0, cell * count, cell * count);
  for (let row = 0; row < count; row++) {
    const found = sources(model, text, state, row);
    // a token's own part would make all others pale
    const largest = Math.max(...found.filter(([place]) => place !== row).map(([, value]) => value), 1e-30);
    for (const [place, value] of found) {
      drawing.fillStyle = palette.at(value / largest);
      drawing.fillRect(cell * place, cell * row, cell, cell);
    }
  }
  drawing.strokeStyle = palette.choice;
  drawing.strokeRect(0.5, cell * state.token + 0.5, cell * count - 1, Math.max(cell - 1, 2));
  element("matrix").dataset.cell = cell;
}

function buildTokens() {
  const text = data.models[state.model].texts[state.text];
  element("tokens").replaceChildren(...text.tokens.map((token, place) =>
    make("button", { class: "token", type: "button", role: "option", "data-place": place, title: `${place + 1}: ${text.kinds[place]}` }, token)));
}

// ---- the similarity of two texts

function pairRows(pair, texts) {
  const rows = texts[pair.left].tokens.length;
  return Array.from({ length: rows }, (_, row) => packedRow(pair, 0, row, rows));
}

function drawSimilarity() {
  const model = data.models[state.model], section = element("similarity");
  section.hidden = model.similarities.length === 0 && !model.whyNoSimilarity;
  element("why-not").textContent = model.similarities.length ? "" : model.whyNoSimilarity && `No similarity to explain: ${model.whyNoSimilarity}.`;
  element("pairs").hidden = model.similarities.length === 0;
  if (!model.similarities.length) return;
  const texts = model.texts;
  fill("pair", model.similarities.map((each, place) => [place, `texts ${each.left + 1} and ${each.right + 1}`]));
  const pair = model.similarities[Number(state.pair)], sides = { left: texts[pair.left], right: texts[pair.right] };
  state.word = Math.min(state.word, sides[state.side].tokens.length - 1);
  const rows = pairRows(pair, texts), pairs = rows.flatMap((row, left) => row.map(([right, value]) => [left, right, value]));
  const own = state.side === "left" ? 0 : 1;
  const parts = new Map(pairs.filter((each) => each[own] === state.word).map((each) => [each[1 - own], each[2]]));
  const largest = Math.max(...[...parts.values()].map(Math.abs), 1e-30);
  for (const side of ["left", "right"]) {
    element(`${side}-words`).replaceChildren(...sides[side].tokens.map((token, place) => {
      const chosen = side === state.side && place === state.word;
      const chip = make("button", { class: "token", type: "button", role: "option", "data-place": place, "aria-selected": chosen }, token);
      chip.tabIndex = place === (side === state.side ? state.word : 0) ? 0 : -1;
      const part = side === state.side ? 0 : (parts.get(place) ?? 0) / largest;
      chip.style.backgroundColor = `rgba(var(${part < 0 ? "--against" : "--flow"}), ${(0.75 * Math.abs(part)).toFixed(3)})`;
      return chip;
    }));
  }
  const sums = pair[`${state.side}Sums`], chosen = sides[state.side];
  element("similarity-said").dataset.cosine = pair.cosine;
  element("similarity-said").textContent =
    `Cosine ${pair.cosine.toFixed(4)}. ${named(chosen, state.word)} of text ${pair[state.side] + 1} adds ${signed(sums[state.word])} over all its pairs.`;
  const strongest = [...pairs].sort((one, other) => Math.abs(other[2]) - Math.abs(one[2])).slice(0, SHOWN_SOURCES);
  const top = Math.max(...strongest.map((each) => Math.abs(each[2])), 1e-30);
  element("strongest").replaceChildren(...strongest.map(([left, right, value]) =>
    make("tr", { "data-left": left, "data-right": right, "data-value": value },
      make("th", { scope: "row" }, sides.left.tokens[left]), make("td", {}, sides.right.tokens[right]),
      make("td", { class: "number" }, signed(value)),
      make("td", { class: "bars" }, make("span", { class: value < 0 ? "bar minus" : "bar", style: `width:${(100 * Math.abs(value) / top).toFixed(1)}%` })))));
  drawPairMaps();
}

function drawPairMaps() {
  const palette = colours();
  data.models.forEach((model, place) => {
    const pair = model.similarities[Number(state.pair)];
    element(`cosine-${place}`).textContent = pair ? `cosine ${pair.cosine.toFixed(4)}` : "";
    if (!pair) return;
    const rows = pairRows(pair, model.texts), columns = model.texts[pair.right].tokens.length;
    const cell = Math.max(1, Math.min(20, Math.floor(440 / columns)));
    const drawing = canvasOf(element(`pair-map-${place}`), cell * columns, cell * rows.length);
    const largest = rows.flat().reduce((most, [, value]) => Math.max(most, Math.abs(value)), 1e-30);
    drawing.fillStyle = palette.at(0);
    drawing.fillRect(0, 0, cell * columns, cell * rows.length);
    rows.forEach((row, left) => {
      for (const [right, value] of row) {
        drawing.fillStyle = value < 0 ? `rgba(${palette.against}, ${-value / largest})` : palette.at(value / largest);
        drawing.fillRect(cell * right, cell * left, cell > 6 ? cell - 1 : cell, cell > 6 ? cell - 1 : cell);
      }
    });
  });
}

// ---- putting it together

function draw({ rebuild = false, similarity = false } = {}) {
  settle();
  fillControls();
  if (rebuild) buildTokens();
  drawMaps();
  drawTokens();
  drawMatrix();
  if (rebuild || similarity) drawSimilarity();
  writeAddress();
}

function choose(changes, options) {
  Object.assign(state, changes);
  draw(options);
}

function step(event, forward, back) {
  const by = { [forward]: 1, [back]: -1 }[event.key] ?? 0;
  if (by || ["Home", "End"].includes(event.key)) event.preventDefault();
  return by;
}

function moved(event, place, count) {
  const to = { Home: 0, End: count - 1 }[event.key] ?? place + step(event, "ArrowRight", "ArrowLeft");
  if (["Home", "End"].includes(event.key)) event.preventDefault();
  return Math.min(Math.max(0, to), count - 1);
}

function listen() {
  for (const name of ["model", "text", "layer", "head", "method", "pair"]) {
    element(name).addEventListener("change", (event) => {
      const value = event.target.value;
      choose({ [name]: typeof state[name] === "number" ? Number(value) : value }, { rebuild: name === "model" || name === "text", similarity: name === "pair" });
    });
  }
  const list = element("tokens");
  const placed = (event) => event.target.closest(".token")?.dataset.place;
  for (const kind of ["click", "mouseover"]) {
    list.addEventListener(kind, (event) => {
      if (placed(event) !== undefined && Number(placed(event)) !== state.token) choose({ token: Number(placed(event)) });
    });
  }
  list.addEventListener("keydown", (event) => {
    const to = moved(event, state.token, list.children.length);
    if (to !== state.token) {
      choose({ token: to });
      list.children[to].focus();
    }
  });
  data.models.forEach((model, place) => {
    const canvas = element(`map-${place}`);
    canvas.addEventListener("click", (event) => {
      const token = Math.floor((event.offsetX - MAP_LEFT) / Number(canvas.dataset.cell)), layer = Math.floor(event.offsetY / ROW);
      if (token >= 0 && layer < model.layers) choose({ model: place, layer, token }, { rebuild: true });
    });
    canvas.addEventListener("keydown", (event) => {
      const count = model.texts[state.text].tokens.length, token = moved(event, state.token, count);
      const layer = Math.min(Math.max(0, state.layer + step(event, "ArrowDown", "ArrowUp")), model.layers - 1);
      if (token !== state.token || layer !== state.layer) choose({ model: place, layer, token }, { rebuild: place !== state.model });
    });
  });
  element("matrix").addEventListener("click", (event) => {
    choose({ token: Math.floor(event.offsetY / Number(element("matrix").dataset.cell)) });
  });
  for (const side of ["left", "right"]) {
    const words = element(`${side}-words`);
    words.addEventListener("click", (event) => {
      if (placed(event) !== undefined) choose({ side, word: Number(placed(event)) }, { similarity: true });
    });
    words.addEventListener("keydown", (event) => {
      const from = Number(placed(event) ?? 0), to = moved(event, from, words.children.length);
      if (to !== from) {
        choose({ side, word: to }, { similarity: true });
        words.children[to].focus();
      }
    });
  }
  window.addEventListener("hashchange", () => { readAddress(); draw({ rebuild: true }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
}

if (data.models.every((model) => model.texts.length)) {
  readAddress();
  draw({ rebuild: true });
  listen();
  document.documentElement.dataset.ready = "yes";
}
