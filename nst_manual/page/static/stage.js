// The picture as it grows, the slider between photograph and result, and the curves of the loss.

import { $, bytes, h, short, time } from "./server.js";

const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
let curves = []; // records of the run that is shown
let shown = { run: null, preview: null };
let timer = null;
let marked = null; // the record that the keyboard reads

export function setUp() {
  $("split").oninput = () => split($("split").value);
  $("curves").onpointermove = (event) => readout(event);
  $("curves").onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || curves.length < 2) return;
    event.preventDefault();
    marked = Math.max(0, Math.min(curves.length - 1, (marked ?? curves.length) + step * (event.shiftKey ? 10 : 1)));
    tell(curves[marked]);
  };
  new ResizeObserver(() => { draw(); fit(); }).observe($("stage"));
}

function split(percent) {
  for (const part of [$("before"), $("handle")]) part.style.setProperty("--split", `${percent}%`);
}

/** Shows a run's picture: `preview` changes with it. */
export function picture(run, preview) {
  const anew = shown.run !== run.id;
  if (!anew && shown.preview === preview) return;
  if (anew) {
    const before = run.order ? `/pictures/${run.order.content}/screen.jpg`
      : run.inputs?.includes("content") ? `/runs/${run.id}/inputs/content` : "";
    $("before").hidden = $("split").hidden = $("handle").hidden = !before;
    if (before) $("before").src = before;
    $("split").value = 0;
    split(0);
    if (!preview && before) $("after").src = before;
  }
  shown = { run: run.id, preview };
  $("viewer").classList.toggle("empty", !preview && !run.order);
  if (!preview) return fit();
  const next = new Image();
  next.src = `/runs/${run.id}/preview.jpg?v=${preview}`;
  next.decode().then(() => {
    if (shown.run === run.id) { $("after").src = next.src; fit(); }
  }).catch(() => {});
}

/** As large as there is room for, in the photograph's shape. */
function fit() {
  const image = $("before").naturalWidth && !$("before").hidden ? $("before") : $("after");
  if (!image.naturalWidth) { image.onload = fit; return; }
  const room = $("viewer").clientWidth;
  const height = Math.min(window.innerHeight * 0.68, (room * image.naturalHeight) / image.naturalWidth);
  const frame = $("viewer").querySelector(".frame");
  frame.style.height = `${height}px`;
  frame.style.width = `${(height * image.naturalWidth) / image.naturalHeight}px`;
}
$("before").onload = fit;

export function nothing() {
  shown = { run: null, preview: null };
  $("viewer").classList.add("empty");
  $("running").hidden = true;
}

export function numbers(run, last) {
  const parts = [];
  if (last && (run.state === "running" || run.state === "paused")) {
    parts.push(`iteration ${last.iteration} of ${last.iterations}`);
    if (last.scales > 1) parts.push(`at ${last.width} × ${last.height} (size ${last.scale} of ${last.scales})`);
    if (run.state === "running" && last.left) parts.push(`about ${time(last.left)} left`);
    if (run.state === "running" && last.memory) parts.push(`${bytes(last.memory)} of memory`);
  } else if (last) {
    parts.push(`${last.iteration} iterations in ${time(last.seconds)}`, `loss ${short(last.loss)}`);
  }
  $("numbers").textContent = parts.join(" · ");
  $("progress").value = last && last.iterations ? last.iteration / last.iterations : 0;
  $("progress").hidden = run.state === "done";
}

export function setRecords(records) {
  marked = null;
  if (!records.length) $("readout").textContent = "Point at the curves to read them.";
  const byIteration = new Map(records.filter((r) => r.iteration).map((r) => [r.iteration, r]));
  curves = [...byIteration.values()].sort((a, b) => a.iteration - b.iteration);
  draw();
}

export function addRecords(records) {
  if (!records.length) return;
  const last = curves.at(-1)?.iteration ?? 0;
  if (records[0].iteration <= last) return setRecords([...curves, ...records]);
  curves.push(...records);
  if (curves.length > 4000) curves = curves.filter((record, number) => number % 2 === 0 || number > curves.length - 20);
  timer ??= setTimeout(() => { timer = null; draw(); }, 900);
}

function series() {
  const kinds = new Map([["loss", curves.map((r) => r.loss)]]);
  const names = Object.keys(curves.at(-1)?.terms ?? {});
  for (const name of names) {
    const kind = name.split(":")[0].replace(/\d+$/, (n) => ` ${n}`);
    const values = kinds.get(kind) ?? curves.map(() => 0);
    curves.forEach((r, i) => { values[i] += r.terms[name] ?? 0; });
    kinds.set(kind, values);
  }
  if (kinds.size === 2) kinds.delete([...kinds.keys()][1]);
  return kinds;
}

function draw() {
  $("figure").hidden = curves.length < 2;
  const canvas = $("curves"), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = 180;
  if (!width) return;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const lines = series();
  const all = [...lines.values()].flat().filter((v) => v > 0);
  if (curves.length < 2 || !all.length) {
    $("legend").replaceChildren();
    return;
  }
  const top = Math.log10(Math.max(...all)), low = Math.max(Math.log10(Math.min(...all)), top - 3);
  const span = Math.max(top - low, 0.2), first = curves[0].iteration, last = curves.at(-1).iteration;
  const x = (i) => 46 + ((width - 56) * (curves[i].iteration - first)) / Math.max(1, last - first);
  const y = (v) => Math.min(height - 22, 10 + ((height - 34) * (top - Math.log10(v))) / span);
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.fillStyle = style.getPropertyValue("--soft");
  pen.font = "11px system-ui";
  pen.lineWidth = 1;
  for (let power = Math.ceil(low); power <= top; power += 1) {
    pen.beginPath(); pen.moveTo(46, y(10 ** power)); pen.lineTo(width - 10, y(10 ** power)); pen.stroke();
    pen.fillText(`1e${power}`, 6, y(10 ** power) + 4);
  }
  let scale = curves[0].scale;
  curves.forEach((r, i) => {
    if (r.scale === scale) return;
    scale = r.scale;
    pen.setLineDash([3, 4]); pen.beginPath(); pen.moveTo(x(i), 8); pen.lineTo(x(i), height - 22); pen.stroke(); pen.setLineDash([]);
    if (x(i) < width - 140) pen.fillText(`${Math.max(r.width, r.height)} px`, x(i) + 3, height - 6);
  });
  pen.fillText(String(first), 46, height - 6);
  pen.textAlign = "right"; pen.fillText(`iteration ${last}`, width - 10, height - 6); pen.textAlign = "left";
  const legend = [];
  [...lines].forEach(([name, values], number) => {
    const colour = style.getPropertyValue(COLOURS[number % COLOURS.length]);
    pen.strokeStyle = colour;
    pen.lineWidth = number ? 1.6 : 2.4;
    pen.beginPath();
    let begun = false;
    values.forEach((v, i) => {
      if (!(v > 0)) { begun = false; return; }
      if (begun) pen.lineTo(x(i), y(v)); else pen.moveTo(x(i), y(v));
      begun = true;
    });
    pen.stroke();
    const mark = h("i", {});
    mark.style.background = colour;
    legend.push(h("span", {}, mark, name === "loss" ? "sum" : name));
  });
  $("legend").replaceChildren(...legend);
}

function readout(event) {
  if (curves.length < 2) return;
  const box = $("curves").getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left - 46) / (box.width - 56)));
  const wanted = curves[0].iteration + share * (curves.at(-1).iteration - curves[0].iteration);
  const record = curves.reduce((a, b) => (Math.abs(b.iteration - wanted) < Math.abs(a.iteration - wanted) ? b : a));
  tell(record);
}

function tell(record) {
  const terms = Object.entries(record.terms).map(([name, value]) => `${name} ${short(value)}`).join(" · ");
  $("readout").textContent = `Iteration ${record.iteration}: ${short(record.loss)} = ${terms}`;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
export const redraw = () => draw();
