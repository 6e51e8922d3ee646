// The form: pictures, settings, and the order that it makes of them.

import { $, ask, h, safely, say, sentence } from "./server.js";
import { paintMask } from "./brush.js";

const NAMES = { init: "Start from", tv_weight: "Smoothness (total variation)", laplacian_weight: "Keep outlines (Laplacian)", color_match: "How colours are moved",
  later_iterations: "Iterations at each later size", padding: "Beyond the edge", optimizer: "Optimiser" };
const HELP = { init: "the picture that is changed bit by bit: the photograph (content), random dots (noise), random clouds (pink), or the first painting (style)" };
const MAIN = ["size", "strength", "style_scale", "colors", "style_loss", "weights"];
export const form = { content: null, styles: [], options: {} };
let about = null;
let changed = () => {};

export function setUp(known, onChange) {
  about = known;
  changed = onChange;
  for (const [box, input, take] of [["content", "content-file", takeContent],
    ["style-drop", "style-file", (p) => form.styles.push({ picture: p, share: 1, where: null, part: null })]]) {
    dropZone($(box), $(input), take);
  }
  $("demo").onclick = safely(async () => {
    $("content").classList.add("busy");
    try {
      const drawn = await ask("/pictures/demo", {});
      form.content = drawn.scene;
      form.styles = [{ picture: drawn.painting, share: 1, where: null, part: null }];
    } finally {
      $("content").classList.remove("busy");
    }
    show();
  });
  for (const id of ["strength", "stroke", "size", "colors", "style_loss", "weights"]) $(id).oninput = read;
  $("weights").append(
    h("option", { value: "auto" }, known.network.vgg19 ? "VGG-19, trained on photographs" : "Made from your two pictures"),
    known.network.vgg19 ? h("option", { value: "calibrated" }, "Made from your two pictures") : "",
  );
  $("network").textContent = known.network.vgg19 ? "" :
    `A trained network, VGG-19, makes finer strokes. To get it, type this once in a terminal, then reload this page: ${known.network.get}`;
  for (const option of known.options) if (!MAIN.includes(option.name) && option.name !== "quick") $("fields").append(field(option));
  restore();
  show();
}

function field(option) {
  const id = `option-${option.name}`;
  const plain = option.name.replaceAll("_", " "), label = NAMES[option.name] ?? plain[0].toUpperCase() + plain.slice(1);
  const set = (value) => {
    if (value === "" || value === null) delete form.options[option.name];
    else form.options[option.name] = value;
    keep();
  };
  if (option.kind === "bool")
    return h("div", { className: "field check" }, h("label", {},
      h("input", { type: "checkbox", id, onchange: (e) => set(e.target.checked ? true : null) }), label), h("p", { className: "hint" }, sentence(option.help)));
  const shown = option.default === null ? "automatic" : String(option.default);
  const control = option.choices
    ? h("select", { id, onchange: (e) => set(e.target.value) }, h("option", { value: "" }, `${shown} (usual)`),
      option.choices.filter((c) => c !== option.default).map((c) => h("option", { value: c }, c)))
    : h("input", { id, type: option.kind === "str" ? "text" : "number", step: "any", min: 0, placeholder: shown,
      onchange: (e) => set(e.target.value === "" ? null : option.kind === "str" ? e.target.value : Number(e.target.value)) });
  return h("div", { className: "field" }, h("label", { htmlFor: id }, label), control,
    h("p", { className: "hint" }, sentence(HELP[option.name] ?? option.help)));
}

/** Another photograph: what was painted on the one before is about that one. */
function takeContent(picture) {
  if (picture.id !== form.content?.id && form.styles.some((style) => style.where)) {
    for (const style of form.styles) style.where = null;
    say("The masks painted on the photograph before are removed.");
  }
  form.content = picture;
}

function dropZone(box, input, take) {
  const receive = safely(async (files) => {
    if (!files.length) throw new Error("That is not a file: save the picture first, then drop its file here.");
    box.classList.add("busy");
    say("");
    try {
      for (const file of input.multiple ? files : [files[0]]) {
        if (file.size > about.most) throw new Error(`${file.name} has more than ${about.most >> 20} MB: make the picture smaller first.`);
        take(await ask(`/pictures?name=${encodeURIComponent(file.name)}`, file));
      }
    } finally {
      box.classList.remove("busy");
      input.value = "";
      show();
    }
  });
  input.onchange = () => input.files.length && receive([...input.files]);
  for (const name of ["dragover", "dragenter"])
    box.addEventListener(name, (event) => { event.preventDefault(); box.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) box.addEventListener(name, () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => { event.preventDefault(); receive([...event.dataTransfer.files]); });
}

function read() {
  const options = form.options;
  const set = (name, value, usual) => { if (value === usual) delete options[name]; else options[name] = value; };
  set("strength", Number($("strength").value), 50);
  set("style_scale", Number((2 ** Number($("stroke").value)).toFixed(3)), 1);
  set("size", Number($("size").value), 512);
  for (const [name, usual] of [["colors", "style"], ["style_loss", "transport"], ["weights", "auto"]]) set(name, $(name).value, usual);
  keep();
}

/** Shows pictures and settings as they are in `form`. */
export function show() {
  const content = form.content;
  $("content").querySelector(".tile")?.remove();
  $("content").querySelector(".invite").hidden = Boolean(content);
  if (content) {
    $("content").append(h("div", { className: "tile" }, thumb(content),
      h("div", { className: "about" }, h("span", { className: "name" }, content.name),
        h("span", { className: "hint" }, `${content.width} × ${content.height} pixels`), h("span", { className: "hint" }, "choose another to replace it"))));
  }
  $("styles").replaceChildren(...form.styles.map(styleTile));
  $("style-drop").classList.toggle("slim", form.styles.length > 0);
  $("first-style").hidden = form.styles.length > 0;
  $("more-styles").hidden = !form.styles.length;
  $("try").hidden = Boolean(content || form.styles.length);
  const o = form.options;
  $("strength").value = o.strength ?? 50;
  $("stroke").value = Math.log2(o.style_scale ?? 1);
  const size = String(o.size ?? 512);
  if (![...$("size").options].some((one) => one.value === size)) $("size").append(h("option", { value: size }, `${size} pixels`));
  $("size").value = size;
  for (const [name, usual] of [["colors", "style"], ["style_loss", "transport"], ["weights", "auto"]]) $(name).value = o[name] ?? usual;
  for (const option of about.options) {
    const control = $(`option-${option.name}`);
    if (control?.type === "checkbox") control.checked = Boolean(o[option.name]);
    else if (control) control.value = o[option.name] ?? "";
  }
  keep();
}

function thumb(picture) {
  return h("img", { src: `/pictures/${picture.id}/thumb.jpg`, alt: "", width: 102, height: 77 });
}

function styleTile(style, number) {
  const several = form.styles.length > 1;
  const mask = (kind, text, picture, title) => h("button", { type: "button", className: style[kind] ? "set" : "", disabled: !picture,
    onclick: safely(async () => {
      const painted = await paintMask(picture, style[kind], title);
      if (painted !== undefined) { style[kind] = painted; show(); }
    }) }, style[kind] ? `${text} ✓` : text);
  return h("div", { className: "tile" }, thumb(style.picture), h("div", { className: "about" },
    h("span", { className: "name" }, style.picture.name),
    several && h("label", {}, "share", h("input", { type: "range", min: 0, max: 10, step: 0.5, value: style.share,
      "aria-label": `Share of ${style.picture.name}`, oninput: (e) => { style.share = Number(e.target.value); keep(); } })),
    h("div", { className: "row" },
      mask("where", "Where it goes …", form.content, `Paint where ${style.picture.name} goes on the photograph`),
      mask("part", "Which part …", style.picture, `Paint which part of ${style.picture.name} to use`),
      h("button", { type: "button", className: "danger", "aria-label": `Remove ${style.picture.name}`,
        onclick: () => { form.styles.splice(number, 1); show(); } }, "Remove"))));
}

/** What the server is asked for. */
export function order() {
  return {
    content: form.content?.id ?? null,
    styles: form.styles.map((s) => ({ picture: s.picture.id, share: s.share, where: s.where, part: s.part })),
    options: { ...form.options },
  };
}

/** Takes pictures and settings over from a run. */
export function take(run) {
  const o = run.order;
  form.content = { id: o.content, ...run.content };
  form.styles = o.styles.map((s) => ({ picture: { id: s.picture, ...s.about }, share: s.share, where: s.where, part: s.part }));
  form.options = { ...o.options };
  show();
}

export const same = (a, b) => JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
const canonical = (o) => [o.content, o.styles.map((s) => [s.picture, s.share, s.where, s.part]),
  Object.entries(o.options).sort(([a], [b]) => (a < b ? -1 : 1))];

function keep() {
  $("strength-shown").textContent = $("strength").value;
  $("stroke-shown").textContent = `${Number((2 ** Number($("stroke").value)).toFixed(2))}×`;
  try { sessionStorage.setItem("form", JSON.stringify(form)); } catch { /* private windows may refuse */ }
  changed();
}

function restore() {
  try { Object.assign(form, JSON.parse(sessionStorage.getItem("form") ?? "{}")); } catch { /* as it was */ }
}
