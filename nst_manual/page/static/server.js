// Talking to the server: answers as JSON, its sentences as errors, and the stream of what is new.

export async function ask(path, body, method) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? { method: method ?? "GET" } : {
      method: method ?? "POST", body: body instanceof Blob ? body : JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer: it was closed, or is too busy.");
  }
  if (answer.status === 403) throw new Error("This page's token is no longer valid. Open the address that the server printed last.");
  const found = await answer.json().catch(() => ({ error: `The server failed (${answer.status}).` }));
  if (!answer.ok) {
    const error = new Error(sentence(found.error ?? `The server failed (${answer.status}).`));
    error.option = found.option;
    throw error;
  }
  return found;
}

/** Our sentences begin small and end without a stop. What may be a file's name or an option's keeps its letters. */
export const sentence = (text) => (text ? (/^[a-z]+([ ,:;]|$)/.test(text) ? text[0].toUpperCase() + text.slice(1) : text) + (/[.!?…]$/.test(text) ? "" : ".") : "");

/**
 * Calls the handlers, by the event's name, with what the server tells. It connects again by itself. A hidden tab
 * lets go, as all tabs together have only six connections to a server, unless it must hear the `last` word.
 */
export function listen(handlers, connected, last) {
  let stream = null;
  const open = () => {
    stream = new EventSource("/events");
    for (const [name, handler] of Object.entries(handlers))
      stream.addEventListener(name, (event) => handler(JSON.parse(event.data), stream));
    stream.onopen = () => connected(true);
    stream.onerror = () => connected(false, stream.readyState === EventSource.CLOSED);
  };
  if (!last) document.addEventListener("visibilitychange", () => (document.hidden ? stream?.close() : open()));
  if (last || !document.hidden) open();
}

/** Makes an element: h("button", { type: "button", onclick: f }, "Text", child). */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith("aria") && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const $ = (id) => document.getElementById(id);

const notice = document.getElementById("notice");

export function say(text) {
  (document.querySelector("dialog[open]") ?? document.body).append(notice); // nothing outside an open dialog can be reached
  notice.firstElementChild.textContent = text;
  notice.hidden = !text;
}

/** An event handler that shows its error as a sentence. */
export const safely = (action) => async (...given) => {
  try {
    return await action(...given);
  } catch (error) {
    say(error.message);
  }
};

/** The same; pressed twice, it acts once. */
export function single(action) {
  let busy = false;
  return safely(async (...given) => {
    if (busy) return;
    busy = true;
    try { await action(...given); } finally { busy = false; }
  });
}

/** Replaces what is in a box; the button that had the focus, by its data-key, gets it back. */
export function renew(box, ...children) {
  const key = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  box.replaceChildren(...children);
  if (key) [...box.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key)?.focus({ preventScroll: true });
}

export function time(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** A file's name as a title. */
export const titled = (name) => name.replace(/\.[a-z0-9]{1,5}$/i, "").replaceAll("_", " ");

/** "photograph × painting + painting" */
export const called = (run) => `${titled(run.content.name)} × ${run.order.styles.map((s) => titled(s.about.name)).join(" + ")}`;

export const bytes = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(1)} GB` : `${Math.round(count / 1e6)} MB`);

export function short(value) {
  if (value === null || value === undefined) return "—";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
