// Looking inside: each term's gradient as a map, one pixel under the glass, the walk down, and the proof.

import { $, ask, called, h, safely, say, sentence, short } from "./server.js";

const COLUMNS = [["adjoint", "dot test"], ["numeric", "differences"], ["pytorch", "PyTorch"], ["engine", "engine"]];
const inside = { run: null, found: null, map: null, at: null, pixel: null, known: new Map() };
let parts;

export function setUp() {
  const room = $("study");
  parts = Object.fromEntries(["runs", "body", "proof"].map((name) => [name, h("div", { className: `study-${name}` })]));
  const where = h("select", { id: "where" },
    h("option", { value: "now" }, "the picture as it is now"), h("option", { value: "content" }, "the photograph, where it starts"),
    h("option", { value: "noise" }, "white noise"), h("option", { value: "pink" }, "pink noise"));
  const which = h("select", { id: "which", onchange: () => inside.select(which.value) });
  const compute = h("button", { type: "button", id: "compute", className: "primary", onclick: safely(look) }, "Compute the gradients");
  parts.where = where; parts.which = which; parts.compute = compute;
  room.append(
    h("div", { className: "intro" },
      h("h2", {}, "What does each part of the loss want?"),
      h("p", {}, "The loss is one number: how far the picture still is from its goals. It is a sum of terms: “content” asks for the photograph’s things, ",
        "“style” for the painting’s strokes, each at several depths of the network. A term’s gradient tells for every pixel: would a brighter pixel bring the goal nearer (blue) or farther (red)? ",
        "The maps show the most at the photograph, where painting begins. To take seconds rather than minutes, the picture is looked at with at most 384 pixels on its longer side.")),
    h("div", { className: "ask" }, h("label", {}, "Of", which), h("label", {}, "at", where), compute),
    parts.body,
    h("section", { className: "panel" }, h("h2", {}, "The proof"),
      h("p", {}, "Every derivative was written by hand. Each is now compared with a dot test, with finite differences, with PyTorch’s autograd if it is installed, and with the fast engine."),
      h("button", { type: "button", id: "prove", onclick: safely(prove) }, "Prove every derivative, now"), parts.proof));
}

export async function enter(run, runs, select) {
  inside.select = select;
  parts.which.replaceChildren(...runs.map((one) => h("option", { value: one.id },
    `${called(one)}, ${one.made.slice(11, 16)}`)));
  update(run);
}

export function update(run) {
  if (!parts || $("study").hidden) return;
  parts.compute.disabled = !run;
  if (!run) {
    parts.body.replaceChildren(h("p", { className: "panel" }, "There is no picture yet. Paint one first: then its gradients can be looked at, even while it grows."));
    return;
  }
  parts.which.value = run.id;
  if (inside.run === run.id) return;
  inside.run = run.id;
  inside.found = inside.pixel = null;
  parts.body.replaceChildren();
  safely(async () => {
    const found = await ask(`/runs/${run.id}/study`);
    if (found && inside.run === run.id) show(found);
  })();
}

async function look() {
  const run = inside.run, old = parts.compute.textContent;
  parts.compute.disabled = true;
  parts.compute.textContent = "Computing …";
  try {
    const found = await ask(`/runs/${run}/study`, { where: parts.where.value });
    if (inside.run === run) show(found);
  } finally {
    parts.compute.disabled = false;
    parts.compute.textContent = old;
  }
}

const file = (name) => `/runs/${inside.run}/study/${name}?v=${inside.found.made}`;
const titles = { content: "content", style: "style", tv: "smoothness", laplacian: "edges" };

function name(term) {
  if (term === "total") return "all terms together";
  const [kind, layer] = term.split(":");
  const base = kind.replace(/\d+$/, ""), number = kind.match(/\d+$/);
  return `${titles[base] ?? base}${number ? ` ${number[0]}` : ""}${layer ? ` at ${layer}` : ""}`;
}

function show(found) {
  inside.found = found;
  inside.pixel = null;
  parts.where.value = found.where;
  const big = h("div", { className: "glass" });
  const pixel = h("div", { className: "pixel" });
  Object.assign(parts, { big, pixel });
  const cards = found.terms.map((term) => h("button", { type: "button", className: "map", "data-term": term.name, onclick: () => choose(term.name) },
    h("img", { src: file(`map${term.map}.png`), alt: `Gradient of ${name(term.name)}` }),
    h("span", { className: "name" }, name(term.name)),
    h("span", { className: "hint" }, term.name === "total" ? `loss ${short(term.loss)}` : `${(100 * term.share).toFixed(1)} % of the gradient`)));
  parts.cards = h("div", { className: "maps" }, h("button", { type: "button", className: "map", "data-term": "", onclick: () => choose("") },
    h("img", { src: file("picture.png"), alt: "The picture itself" }), h("span", { className: "name" }, "the picture"), h("span", { className: "hint" }, `${found.width} × ${found.height}`)), cards);
  parts.body.replaceChildren(
    h("div", { className: "look" }, h("div", {}, big, scale()), h("div", { className: "panel" }, h("h3", {}, "One pixel"), pixel)),
    parts.cards, h("div", { className: found.terms.length > 9 ? "one" : "two" }, angles(found), walk(found)));
  choose("total");
  hint();
}

function scale() {
  parts.scale = h("div", { className: "scale" }, h("span", { id: "scale-low" }), h("i", {}), h("span", { id: "scale-high" }));
  return parts.scale;
}

function choose(term) {
  inside.map = term;
  for (const card of parts.cards.children) card.setAttribute("aria-pressed", String(card.dataset.term === term));
  const about = inside.found.terms.find((one) => one.name === term);
  const { width, height } = inside.found;
  const image = h("img", { src: file(about ? `map${about.map}.png` : "picture.png"), alt: about ? `Gradient of ${name(term)}` : "The picture", draggable: false });
  image.style.aspectRatio = `${width} / ${height}`;  // nothing moves under the mouse when it is loaded
  const boxes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const glass = h("div", { className: "pane", tabIndex: 0, role: "application", id: "glass",
    "aria-label": "Click a pixel; by keyboard, arrows move the mark and Enter chooses the pixel." }, image, boxes);
  parts.boxes = boxes;
  const place = (event) => {
    const area = image.getBoundingClientRect();
    return { row: Math.min(height - 1, Math.max(0, Math.floor(((event.clientY - area.top) / area.height) * height))),
      column: Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - area.left) / area.width) * width))) };
  };
  glass.onclick = (event) => { if (event.detail || event.pointerType) pick(place(event)); };
  glass.onkeydown = (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const at = inside.at ?? { row: height >> 1, column: width >> 1 };
    if (moves[event.key]) {
      const step = event.shiftKey ? 1 : 8;
      inside.at = { row: Math.min(height - 1, Math.max(0, at.row + step * moves[event.key][0])), column: Math.min(width - 1, Math.max(0, at.column + step * moves[event.key][1])) };
      draw();
    } else if (event.key === "Enter" || event.key === " ") pick(at);
    else return;
    event.preventDefault();
  };
  parts.big.replaceChildren(glass);
  parts.scale.classList.toggle("none", !about);
  if (about) {
    $("scale-low").textContent = `−${short(about.scale)}: brighter lowers the loss`;
    $("scale-high").textContent = `brighter raises it: +${short(about.scale)}`;
    parts.scale.title = inside.found.unit;
  }
  draw();
}

function hint() {
  parts.pixel.replaceChildren(h("p", { className: "hint" }, "Click a pixel in the large picture: how each term would change it, and how much of the picture each layer sees there."));
}

const pick = safely(async (at) => {
  inside.at = at;
  draw();
  inside.pixel = await ask(`/runs/${inside.run}/study/pixel?row=${at.row}&column=${at.column}&made=${inside.found.made}`);
  draw();
  const { colour, wishes, fields } = inside.pixel;
  const swatch = (rgb) => { const box = h("i", { className: "swatch" }); box.style.background = `rgb(${rgb.map((v) => Math.max(0, Math.min(255, Math.round(v)))).join(" ")})`; return box; };
  const largest = Math.max(...Object.entries(wishes).filter(([n]) => n !== "total").flatMap(([, wish]) => wish.map(Math.abs)), 1e-300);
  const rows = inside.found.terms.filter((term) => wishes[term.name]?.some((v) => v)).map((term) => {
    const wish = wishes[term.name], norm = Math.max(...wish.map(Math.abs), 1e-300);
    return h("tr", { className: term.name === "total" ? "total" : "" }, h("th", { scope: "row" }, name(term.name)),
      wish.map((value, channel) => h("td", {}, bar(value / largest, ["#d2453b", "#3a9b50", "#3f6fd8"][channel], `${"red green blue".split(" ")[channel]} ${short(value)}`))),
      h("td", {}, swatch(colour.map((c, k) => c + (110 * wish[k]) / norm))));
  });
  const list = fields.map(({ layer, box }) => h("li", {}, h("button", { type: "button", className: "link", onmouseenter: () => draw(layer), onfocus: () => draw(layer), onmouseleave: () => draw(), onblur: () => draw() },
    layer), ` sees ${box[3] - box[1] + 1} × ${box[2] - box[0] + 1}`));
  parts.pixel.replaceChildren(
    h("p", {}, `Column ${at.column}, row ${at.row} `, swatch(colour)),
    h("div", { className: "wide" }, h("table", { className: "wishes" }, h("thead", {}, h("tr", {}, h("th", {}, "wants"), h("th", {}, "red"), h("th", {}, "green"), h("th", {}, "blue"), h("th", {}, "towards"))), h("tbody", {}, rows))),
    h("p", { className: "hint" }, "To the right: more of that colour lowers the loss. “Towards” is the pixel’s colour, moved far in that direction."),
    h("p", {}, h("b", {}, "What each layer sees there"), " (pixels across × down)"), h("ul", { className: "fields" }, list));
});

function bar(value, colour, text) {
  const mark = h("i", {});
  mark.style.background = colour;
  mark.style.width = `${Math.min(50, 50 * Math.abs(value))}%`;
  mark.style.left = value < 0 ? `${50 - Math.min(50, 50 * Math.abs(value))}%` : "50%";
  return h("span", { className: "signed", title: text, role: "img", "aria-label": text }, mark);
}

function draw(only) {
  if (!parts.boxes) return;
  const make = (tag, values) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
    return element;
  };
  const found = [];
  for (const { layer, box } of inside.pixel?.fields ?? []) {
    if (only ? layer !== only : !/_1$/.test(layer) && layer !== inside.pixel.fields.at(-1).layer) continue;
    const area = { x: box[1], y: box[0], width: box[3] - box[1] + 1, height: box[2] - box[0] + 1 };
    found.push(make("rect", { ...area, class: "halo" }), make("rect", { ...area, class: only ? "field only" : "field" }));
    if (area.height > 20 && area.y > 0) found.push(Object.assign(make("text", { x: area.x + 3, y: area.y + 8 }), { textContent: layer }));
  }
  if (inside.at) {
    const { row, column } = inside.at;
    for (const kind of ["halo", "cross"]) {
      found.push(make("line", { x1: column - 7, x2: column + 8, y1: row + 0.5, y2: row + 0.5, class: kind }),
        make("line", { y1: row - 7, y2: row + 8, x1: column + 0.5, x2: column + 0.5, class: kind }));
    }
  }
  parts.boxes.replaceChildren(...found);
}

function angles(found) {
  const names = found.terms.filter((term) => term.name !== "total" && term.norm > 0).map((term) => term.name);
  const all = ["total", ...names];
  const cell = (a, b) => {
    const cosine = found.cosines[a][b];
    if (cosine === null) return h("td", {}, "—");
    const degrees = (Math.acos(Math.max(-1, Math.min(1, cosine))) * 180) / Math.PI;
    const box = h("td", { title: `cosine ${cosine.toFixed(3)}` }, `${degrees.toFixed(0)}°`);
    box.style.background = `color-mix(in srgb, ${cosine > 0 ? "var(--c1)" : "var(--c2)"} ${Math.round(42 * Math.abs(cosine))}%, transparent)`;
    return box;
  };
  return h("section", { className: "panel" }, h("h3", {}, "Shares and angles"),
    h("p", { className: "hint" }, "A term’s share of the gradient; and the angle between any two terms: at 0° both pull the same way, at 90° neither helps nor hinders the other, at 180° they pull against each other."),
    h("div", { className: "wide" }, h("table", { className: "angles" },
      h("thead", {}, h("tr", {}, h("td", {}), h("th", {}, "share"), h("th", {}, "length"), all.map((n, k) => h("th", { title: name(n) }, k ? String(k) : "all")))),
      h("tbody", {}, all.map((a, k) => {
        const term = found.terms.find((one) => one.name === a);
        return h("tr", {}, h("th", { scope: "row" }, k ? `${k} ${name(a)}` : name(a)), h("td", {}, `${(100 * term.share).toFixed(1)} %`), h("td", {}, short(term.norm)),
          all.map((b, j) => (j <= k ? cell(a, b) : h("td", {}))));
      })))));
}

function walk(found) {
  const most = Math.max(...found.layers.map((layer) => layer.norm)), least = Math.min(...found.layers.map((layer) => layer.norm).filter((n) => n > 0));
  const rows = found.layers.map((layer) => {
    const mark = h("i", {}), open = h("i", { className: "open" });
    mark.style.width = `${layer.norm > 0 ? 6 + (94 * Math.log(layer.norm / least)) / Math.max(Math.log(most / least), 1e-9) : 0}%`;
    open.style.width = `${100 * (layer.open ?? 0)}%`;
    return h("tr", {}, h("th", { scope: "row" }, layer.name), h("td", { className: "bars" }, mark), h("td", {}, short(layer.norm)),
      h("td", { className: "bars" }, layer.open === null ? "" : open), h("td", {}, layer.open === null ? "" : `${(100 * layer.open).toFixed(0)} %`));
  });
  return h("section", { className: "panel" }, h("h3", {}, "The walk down"),
    h("p", { className: "hint" }, "The gradient’s length at each layer, from the deepest down to the pixels (bars are logarithmic), and how many of the layer’s ReLUs are open and let it pass."),
    h("div", { className: "wide" }, h("table", { className: "walk" }, h("thead", {}, h("tr", {}, h("th", {}, "layer"), h("th", { colSpan: 2 }, "length"), h("th", { colSpan: 2 }, "open ReLUs"))), h("tbody", {}, rows))));
}

async function prove() {
  const button = $("prove"), body = h("tbody", {}), state = h("p", { role: "status" }, "The first rows take a few seconds …");
  button.disabled = true;
  parts.proof.replaceChildren(state, h("div", { className: "wide" }, h("table", { className: "proof" }, h("thead", {}, h("tr", {}, h("th", {}, "relative error against"),
    COLUMNS.map(([, title]) => h("th", {}, title)), h("th", {}, "verdict"))), body)));
  let count = 0, wrong = 0;
  try {
    const answer = await fetch("/check", { method: "POST", body: "{}" });
    if (!answer.ok) throw new Error(sentence((await answer.json().catch(() => ({}))).error ?? `the server failed (${answer.status})`));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const row of lines.map((line) => JSON.parse(line))) {
        if (row.error) throw new Error(sentence(row.error));
        count += 1;
        wrong += row.passed ? 0 : 1;
        body.append(h("tr", { title: row.explanation ?? "" }, h("th", { scope: "row" }, row.name),
          COLUMNS.map(([key]) => h("td", {}, row[key] === null ? "—" : row[key].toExponential(1))), h("td", { className: row.passed ? "ok" : "wrong" }, row.passed ? "ok" : "WRONG")));
        state.textContent = `${count} proved …`;
      }
    }
    if (!count) throw new Error("The proof ended before it was done.");
    state.textContent = wrong ? `${wrong} of ${count} derivatives are wrong.` : `All ${count} derivatives are right.`;
  } catch (error) {
    state.textContent = `${count} proved, then it ended.`;
    throw error;
  } finally {
    button.disabled = false;
  }
}
