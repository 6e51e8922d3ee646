// The results: each with its recipe, its downloads, and what can be done with it.

import { $, ask, called, h, renew, safely, say, single, time } from "./server.js";

export const WORDS = { queued: "waiting", running: "painting", paused: "paused", stopped: "stopped early", done: "done", failed: "failed" };

let drawn = "";

export function show(runs, selected, act) {
  $("gallery").hidden = !runs.length;
  const now = JSON.stringify([selected, runs.map((run) => [run.id, run.state, run.preview])]);
  if (now !== drawn) renew($("cards"), ...runs.map((run) => card(run, run.id === selected, act)));
  drawn = now;
}

function card(run, selected, act) {
  const title = called(run);
  const picture = run.preview
    ? h("img", { src: `/runs/${run.id}/preview.jpg?v=${run.preview}`, alt: `Result: ${title}`, loading: "lazy" })
    : h("img", { className: "blank", src: `/pictures/${run.order.content}/thumb.jpg`, alt: "" });
  return h("li", { className: `card${selected ? " selected" : ""}`, "data-run": run.id },
    h("button", { className: "show", type: "button", "data-key": `show ${run.id}`, "aria-label": `Show ${title}`, "aria-current": selected ? "true" : null, onclick: () => act.select(run.id) }, picture),
    h("div", { className: "text" },
      h("span", { className: `badge ${run.state}` }, WORDS[run.state]),
      h("span", {}, title),
      h("div", { className: "row" },
        h("button", { type: "button", "data-key": `reuse ${run.id}`, title: "Take over its pictures and settings", onclick: () => act.settings(run) }, "Reuse"),
        h("button", { type: "button", className: "danger", disabled: run.state === "running", "aria-label": `Delete ${title}`,
          onclick: safely(async () => { if (confirm("Delete this picture and everything about it?")) await ask(`/runs/${run.id}`, undefined, "DELETE"); }) }, "Delete"))));
}

/** What can be done with the run that is shown. */
export function actions(run, act) {
  const list = [];
  if (run.result && run.state !== "running") {
    list.push(h("a", { className: "button strong", href: `/runs/${run.id}/download/result.png`, download: "" }, "Download PNG"),
      h("a", { className: "button", href: `/runs/${run.id}/download/result.tif`, download: "" }, "16-bit TIFF"));
  }
  if (run.preview) {
    list.push(h("a", { className: "button", href: `/runs/${run.id}/download/animation.webp`, download: "" }, "Animation (WebP)"),
      h("a", { className: "button", href: `/runs/${run.id}/download/animation.gif`, download: "" }, "GIF"));
  }
  if (run.result && run.state !== "running") {
    const now = Math.max(run.last?.width ?? 0, run.last?.height ?? 0);
    for (const size of [1024, 2048].filter((one) => one > now * 1.2))
      list.push(h("button", { type: "button", onclick: single(() => act.larger(run, size)) }, `Continue at ${size}`));
    list.push(h("button", { type: "button", onclick: single(() => act.repeat(run)) }, "Repeat"),
      h("button", { type: "button", onclick: safely(() => recipe(run)) }, "Recipe"));
  }
  if (run.preview) list.push(h("button", { type: "button", onclick: () => act.inside(run) }, "Look inside"));
  for (const one of list) one.dataset.key = one.textContent;
  renew($("actions"), ...list);
}

async function recipe(run) {
  const made = await ask(`/runs/${run.id}/recipe`);
  const box = $("recipe");
  const rows = [["Network", made.weights.source], ["Made", run.made.replace("T", " ")], ["Took", time(run.last?.seconds)],
    ["With", Object.entries(made.versions).map(([name, version]) => `${name} ${version}`).join(", ")]];
  box.replaceChildren(h("h2", { id: "recipe-title" }, "How it was made"),
    h("p", {}, made.whole ? "This command makes the same picture. " : "The run was ended early: this command goes on to its end. ",
      made.needs.length ? `It needs ${made.needs.join(", ")} as well, from the page’s folder. ` : "", "The command is also stored in the picture that you download."),
    h("pre", {}, made.command),
    h("ul", {}, rows.filter(([, value]) => value).map(([name, value]) => h("p", { className: "hint" }, `${name}: ${value}`))),
    h("div", { className: "actions" },
      h("button", { type: "button", onclick: safely(async () => {
        if (!navigator.clipboard) throw new Error("The browser lets this page copy nothing: select the command, and copy it by hand.");
        await navigator.clipboard.writeText(made.command);
        say("The command is copied.");
      }) }, "Copy the command"),
      h("button", { type: "button", onclick: () => box.close() }, "Close")));
  box.showModal();
}
