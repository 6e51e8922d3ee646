// The page: what is selected, what is new, and which room is open.

import { $, ask, h, listen, safely, say, sentence, single } from "./server.js";
import * as make from "./make.js";
import * as stage from "./stage.js";
import * as gallery from "./gallery.js";
import * as study from "./study.js";

const state = { runs: [], selected: null, watching: false, ended: false, lost: false };
const shown = () => state.runs.find((run) => run.id === state.selected);
const running = () => state.runs.find((run) => run.state === "running");

const act = {
  select: (id) => select(id),
  settings: (run) => { make.take(run); select(run.id); $("strength").focus(); scrollTo({ top: 0, behavior: "smooth" }); },
  repeat: async (run) => select((await ask(`/runs/${run.id}/again`, { start: "begin", kind: "repeated" })).id),
  larger: async (run, size) => select((await ask(`/runs/${run.id}/again`,
    { start: "picture", kind: "continued", changes: { options: { size, enlarge: true } } })).id),
  inside: (run) => { select(run.id); open("study"); },
};

async function select(id) {
  if (state.selected !== id) stage.setRecords([]); // lest the curves of another run stay
  state.selected = id;
  history.replaceState(null, "", id ? `#${id}` : " ");
  update();
  if (!id) return;
  try {
    const records = await ask(`/runs/${id}/records`);
    if (state.selected === id) stage.setRecords(records);
  } catch { /* it was deleted */ }
}

function update() {
  const run = shown();
  document.body.classList.toggle("has-run", Boolean(run));
  if (!state.watching) gallery.show(state.runs, state.selected, act);
  form();
  if (!run) return stage.nothing();
  $("running").hidden = false;
  stage.picture(run, run.preview);
  stage.numbers(run, run.last);
  $("state").textContent = sentence(gallery.WORDS[run.state]).replace(".", "");
  const why = run.message || (run.state === "queued" && running() ? "another picture is painted first" : "");
  $("message").textContent = run.state === "done" ? "" : sentence(why.replace(/^interrupted; /, ""));
  const mine = !state.watching;
  $("pause").hidden = !(mine && (run.state === "running" || run.state === "queued"));
  $("stop").hidden = !(mine && run.state === "running");
  $("resume").hidden = !(mine && ["paused", "stopped", "failed"].includes(run.state));
  if (mine) gallery.actions(run, act);
  study.update(run);
}

function form() {
  const ready = make.form.content && make.form.styles.length;
  const now = running(), active = state.runs.some((run) => run.state === "running" || run.state === "queued");
  $("paint").disabled = !ready;
  const differs = ready && now && now.id === state.selected && now.order.content === make.form.content.id && !make.same(now.order, make.order());
  $("paint").textContent = differs ? "Or paint it afterwards, as another picture" : active ? "Paint this next" : "Paint";
  $("paint").classList.toggle("primary", !differs);
  $("why").hidden = Boolean(ready);
  $("why").textContent = make.form.content ? "Now choose a painting." : make.form.styles.length ? "Now choose a photograph." : "First choose two pictures.";
  $("goon").hidden = !differs;
}

function open(room) {
  for (const name of ["make", "study"]) {
    $(name).hidden = name !== room;
    $(`tab-${name}`).setAttribute("aria-selected", String(name === room));
    $(`tab-${name}`).tabIndex = name === room ? 0 : -1;
  }
  if (room === "study") study.enter(shown() ?? state.runs[0], state.runs, select);
  else stage.redraw();
}

function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme ?? (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  stage.redraw();
}

async function begin() {
  if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
  stage.setUp();
  const about = await ask("/about");
  state.watching = about.watching;
  state.runs = about.runs;
  document.body.classList.toggle("watching", about.watching);
  if (about.watching) watch();
  else make.setUp(about, form);
  study.setUp();
  const wanted = location.hash.slice(1);
  const first = state.runs.find((run) => run.id === wanted) ?? running() ?? state.runs[0];
  state.selected = first?.id ?? null;
  update();
  listen({
    runs: (runs) => {
      state.runs = runs;
      if (shown()) update();
      else select(runs[0]?.id ?? null);
    },
    records: (news) => {
      const run = state.runs.find((one) => one.id === news.run);
      if (!run) return;
      const first = news.preview && !run.preview;
      if (news.last) run.last = news.last;
      run.preview = news.preview;
      if (first) update();
      if (run.id !== state.selected) return;
      stage.addRecords(news.records);
      stage.picture(run, run.preview);
      stage.numbers(run, run.last);
    },
    closed: (nothing, stream) => {
      state.ended = true;
      stream.close();
      say(state.watching ? `The run has ended, and its page with it. The picture is in ${state.runs[0].watched}.`
        : "The program was closed in its terminal, and what it painted is saved. To go on, type there: python -m nst_manual serve");
    },
  }, (connected, refused) => {
    if (!connected && !state.ended) {
      state.lost = true;
      say(refused ? "The program was started again, with a new address: open the one that stands last in its terminal." : "The program does not answer: is its terminal still open? This page waits for it …");
    } else if (connected) { // what was told meanwhile was missed
      if (state.lost) say("");
      state.lost = false;
      select(state.selected);
    }
  }, state.watching); // whose server ends with its run
}

function watch() {
  $("form").hidden = $("gallery").hidden = document.querySelector("nav").hidden = true;
  const run = state.runs[0];
  document.title = `nst_manual: ${run.watched}`;
  $("actions").replaceChildren(...run.inputs.map((name) =>
    h("img", { src: `/runs/${run.id}/inputs/${name}`, alt: name === "content" ? "The photograph" : "A painting", height: 84 })));
}

const paint = single(async () => { say(""); await select((await ask("/runs", make.order())).id); if (innerWidth < 900) $("stage").scrollIntoView(); });
$("form").onsubmit = (event) => { event.preventDefault(); paint(); };
$("goon").onclick = single(async () => {
  const { styles, options } = make.order(), old = running();
  const unset = Object.fromEntries(Object.keys(old.order.options).filter((name) => !(name in options)).map((name) => [name, null]));
  await select((await ask(`/runs/${old.id}/again`, { start: "picture", kind: "continued", changes: { styles, options: { ...unset, ...options } } })).id);
});
for (const what of ["pause", "stop", "resume"]) $(what).onclick = safely(() => ask(`/runs/${state.selected}/${what}`, {}));
for (const name of ["make", "study"]) {
  $(`tab-${name}`).onclick = () => open(name);
  $(`tab-${name}`).onkeydown = (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "make" ? "study" : "make";
    open(other);
    $(`tab-${other}`).focus();
  };
}
$("theme").onclick = theme;
$("notice").lastElementChild.onclick = () => say("");
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => event.preventDefault());
safely(begin)();
