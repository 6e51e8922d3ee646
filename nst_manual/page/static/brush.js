// The mask brush: white is inside. By pointer, or by keyboard: arrows move, space paints, + and − change the size.

import { $, ask, h, safely } from "./server.js";

/** Resolves with the mask's id, null for "everywhere", or undefined if nothing was changed. */
export function paintMask(picture, known, title) {
  return new Promise((resolve, reject) => {
    const box = $("brush");
    const image = new Image();
    image.onload = () => open(box, image, picture, known, title, resolve);
    image.onerror = () => reject(new Error("The picture can't be loaded: drop it again."));
    image.src = `/pictures/${picture.id}/screen.jpg`;
  });
}

function open(box, image, picture, known, title, resolve) {
  const width = image.naturalWidth, height = image.naturalHeight;
  const mask = Object.assign(document.createElement("canvas"), { width, height });
  const ink = mask.getContext("2d", { willReadFrequently: true });
  ink.lineCap = ink.lineJoin = "round";
  const canvas = h("canvas", { id: "brush-canvas", width, height, tabIndex: 0, role: "application",
    "aria-label": "The mask. Arrows move the brush, space paints, E erases, plus and minus change its size." });
  canvas.style.width = `min(100%, ${(62 * width) / height}vh)`;
  const pen = canvas.getContext("2d");
  const size = h("input", { type: "range", min: 2, max: Math.round(Math.max(width, height) / 4), value: Math.round(Math.max(width, height) / 14), "aria-label": "Size of the brush" });
  const erase = h("input", { type: "checkbox" });
  let at = { x: width / 2, y: height / 2 }, last = null, answered = false;
  const undo = [];

  const veil = Object.assign(document.createElement("canvas"), { width, height }); // dark where the mask is not
  const cover = veil.getContext("2d");
  const draw = () => {
    pen.clearRect(0, 0, width, height);
    pen.drawImage(image, 0, 0);
    pen.globalAlpha = 0.62;
    cover.globalCompositeOperation = "source-over";
    cover.fillStyle = "#101018";
    cover.fillRect(0, 0, width, height);
    cover.globalCompositeOperation = "destination-out";
    cover.drawImage(mask, 0, 0);
    pen.drawImage(veil, 0, 0);
    pen.globalAlpha = 1;
    pen.strokeStyle = erase.checked ? "#ff9a76" : "#ffffff";
    pen.lineWidth = 2;
    pen.beginPath(); pen.arc(at.x, at.y, size.value / 2, 0, 7); pen.stroke();
  };
  const remember = () => { undo.push(ink.getImageData(0, 0, width, height)); if (undo.length > 12) undo.shift(); };
  const dab = (from) => {
    ink.globalCompositeOperation = erase.checked ? "destination-out" : "source-over";
    ink.strokeStyle = "#fff";
    ink.lineWidth = Number(size.value);
    ink.beginPath(); ink.moveTo(from.x, from.y); ink.lineTo(at.x + 0.01, at.y); ink.stroke();
    draw();
  };
  const place = (event) => {
    const area = canvas.getBoundingClientRect();
    at = { x: ((event.clientX - area.left) * width) / area.width, y: ((event.clientY - area.top) * height) / area.height };
  };
  canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); remember(); place(event); last = at; dab(at); };
  canvas.onpointermove = (event) => { const before = at; place(event); if (last) dab(before); else draw(); };
  canvas.onpointerup = canvas.onpointercancel = () => { last = null; };
  canvas.onkeydown = (event) => {
    const step = event.shiftKey ? 4 : Math.max(4, size.value / 4), before = { ...at };
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      at = { x: Math.min(width, Math.max(0, at.x + moves[event.key][0])), y: Math.min(height, Math.max(0, at.y + moves[event.key][1])) };
      if (last) dab(before); else draw();
    } else if (event.key === " ") { if (!last) { remember(); last = at; } dab(at); }
    else if (event.key === "+" || event.key === "=") { size.value = Number(size.value) * 1.2; draw(); }
    else if (event.key === "-") { size.value = Number(size.value) / 1.2; draw(); }
    else if (event.key === "e" || event.key === "E") { erase.checked = !erase.checked; draw(); }
    else return;
    event.preventDefault();
  };
  canvas.onkeyup = (event) => { if (event.key === " ") last = null; };
  size.oninput = erase.onchange = draw;

  const answer = (value) => { answered = true; resolve(value); box.close(); };
  const button = (text, action, more = {}) => h("button", { type: "button", onclick: action, ...more }, text);
  const saved = safely(async () => {
    const whole = Object.assign(document.createElement("canvas"), { width, height });
    const paper = whole.getContext("2d", { willReadFrequently: true });
    paper.fillStyle = "#000";
    paper.fillRect(0, 0, width, height);
    paper.drawImage(mask, 0, 0);
    const data = paper.getImageData(0, 0, width, height).data;
    let inside = 0;
    for (let i = 0; i < data.length; i += 4) inside += data[i];
    if (!inside) throw new Error("Nothing is painted yet: paint a part, or choose “Everywhere”.");
    const file = await new Promise((done) => whole.toBlob(done, "image/png"));
    answer((await ask(`/pictures?name=mask.png`, file)).id);
  });
  const flip = () => {
    remember();
    ink.globalCompositeOperation = "xor";
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, width, height);
    draw();
  };
  const back = () => { const before = undo.pop(); if (before) ink.putImageData(before, 0, 0); draw(); };
  box.replaceChildren(
    h("h2", { id: "brush-title" }, title),
    h("p", { className: "hint" }, "Paint with the mouse or a finger; what is bright is inside. By keyboard: arrows move, space paints, E erases, + and − change the size."),
    canvas,
    h("div", { className: "brush-tools" }, h("label", {}, "Brush", size), h("label", {}, erase, "erase"),
      button("Undo", back), button("Swap inside and outside", flip)),
    h("div", { className: "actions" }, button("Use this mask", saved, { className: "strong", id: "brush-save" }),
      button("Everywhere", () => answer(null), { id: "brush-everywhere" }), button("Cancel", () => box.close())));
  box.onclose = () => { if (!answered) resolve(undefined); };
  if (known) {
    const old = new Image();
    old.onload = () => {
      ink.drawImage(old, 0, 0, width, height);
      const found = ink.getImageData(0, 0, width, height);
      for (let i = 0; i < found.data.length; i += 4) { found.data[i + 3] = found.data[i]; found.data[i] = found.data[i + 1] = found.data[i + 2] = 255; }
      ink.putImageData(found, 0, 0);
      draw();
    };
    old.src = `/pictures/${known}/screen.jpg`;
  }
  box.showModal();
  draw();
  canvas.focus();
}
