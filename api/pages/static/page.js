// Everything here is a convenience: each page can be read, and each form sent, without it.
"use strict";

/** Have a form sent once, however often its button is pressed. */
function sendOnce(part) {
  for (const form of part.querySelectorAll("form[data-once]")) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) {
        event.preventDefault();
        return;
      }
      form.dataset.sent = "yes";
      // Afterwards: a button that is disabled while its form is being sent, sends none.
      setTimeout(() => form.querySelectorAll("button").forEach((each) => { each.disabled = true; }));
    });
  }
}

/** Let somebody who comes back by the browser's button send a form again. */
function sendOnceMore() {
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll("form[data-once]")) {
      delete form.dataset.sent;
      form.querySelectorAll("button").forEach((each) => { each.disabled = false; });
    }
  });
}

const PATIENCE = 10_000; // milliseconds that reading a page anew may take
const lost = new Map(); // what does not work now, and when there was an answer last
let answered = new Date();

/** Note whether something works; while anything does not, what is shown may be old: say so. */
function tell(what, works) {
  if (works) {
    answered = new Date();
    lost.delete(what);
  } else if (!lost.has(what)) {
    lost.set(what, answered);
  }
  const since = Math.min(...[...lost.values()].map(Number));
  const text = lost.size
    ? `Not up to date: no answer since ${new Date(since).toISOString().slice(11, 19)} UTC. Trying again.`
    : "";
  const banner = document.getElementById("stale");
  if (banner.textContent !== text) banner.textContent = text; // said once, not at each try
}

/** Read this page anew, and put what is new into the parts with these ids. False if it is left. */
async function freshen(ids) {
  let answer;
  let text;
  try {
    answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(PATIENCE),
    });
    text = await answer.text();
  } catch {
    tell("page", false); // no network, or an API that says nothing: the next time
    return true;
  }
  if (answer.redirected) {
    const there = new URL(answer.url);
    there.searchParams.set("ended", "1");
    location.assign(there); // signed out: whoever looks is to see it
    return false;
  }
  if (answer.status >= 500 || answer.status === 429) {
    tell("page", false);
    return true;
  }
  if (!answer.ok) {
    location.reload(); // it is there no more: whoever looks is to see it
    return false;
  }
  tell("page", true);
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const id of ids) {
    const before = document.getElementById(id);
    const after = page.getElementById(id);
    if (!before || !after || before.innerHTML === after.innerHTML) continue;
    const focused = before.contains(document.activeElement) ? document.activeElement : null;
    const open = [...before.querySelectorAll("details[open]")].map((each) => each.id);
    before.replaceChildren(...after.childNodes);
    for (const each of open) before.querySelector(`#${CSS.escape(each)}`)?.setAttribute("open", "");
    const href = focused?.getAttribute("href");
    if (href) before.querySelector(`[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
    sendOnce(before); // only there: a form that is told twice takes its first sending for a second
  }
  return true;
}

/** Keep parts of the page true: those that say how often, in seconds. */
function stayFresh() {
  const parts = [...document.querySelectorAll("[data-fresh]")].filter((each) => each.dataset.fresh);
  if (!parts.length) return;
  const seconds = Math.min(...parts.map((each) => Number(each.dataset.fresh)));
  const again = async () => {
    if (document.hidden || (await freshen(parts.map((each) => each.id)))) setTimeout(again, seconds * 1000);
  };
  setTimeout(again, seconds * 1000);
}

/** Follow a batch: each change of a stop's state comes as an event. */
function follow(live) {
  const states = ["succeeded", "failed", "canceled", "confirming", "stopping", "scheduled"];
  const open = new Set(["confirming", "stopping", "scheduled"]);
  const total = Number(live.dataset.total);
  const progress = document.getElementById("progress");
  let later = 0;
  let said = 0;

  const readRest = () => {
    clearTimeout(later);
    later = setTimeout(() => freshen(["after"]), 400);
  };

  const count = () => {
    const counts = Object.fromEntries(states.map((state) => [state, 0]));
    for (const cell of live.querySelectorAll("[data-stop]")) counts[cell.dataset.now] += 1;
    let x = 0;
    for (const state of states) {
      const bar = live.querySelector(`[data-bar="${state}"]`);
      bar.setAttribute("x", x);
      bar.setAttribute("width", counts[state]);
      x += counts[state];
      const number = live.querySelector(`[data-count="${state}"]`);
      number.textContent = counts[state];
      number.parentElement.classList.toggle("none", counts[state] === 0);
    }
    const left = states.filter((state) => open.has(state)).reduce((sum, state) => sum + counts[state], 0);
    progress.textContent = left ? `${left} of ${total} have not ended.` : `All ${total} have ended.`;
    // A screen reader is told now and then, and at the end.
    if (left === 0 || Date.now() - said > 5000) {
      said = Date.now();
      document.getElementById("said").textContent = progress.textContent;
    }
  };

  // The stream begins with all that was before: a change that is older than the page changes nothing.
  // Within one attempt a stop is first with a worker, then waits again or has ended.
  const rank = (attempt, state) => attempt * 3 + (state === "stopping" ? 0 : open.has(state) ? 1 : 2);

  for (const cell of live.querySelectorAll("[data-stop]")) {
    cell.dataset.now = cell.querySelector("[data-state]").textContent;
  }

  const events = new EventSource(live.dataset.events);
  events.addEventListener("stop", (event) => {
    const change = JSON.parse(event.data);
    const cell = live.querySelector(`[data-stop="${CSS.escape(change.stop_task_id)}"]`);
    if (!cell || !states.includes(change.state)) return;
    if (rank(change.attempt, change.state) <= rank(Number(cell.dataset.attempt), cell.dataset.now)) return;
    cell.dataset.attempt = change.attempt;
    cell.classList.remove(...states.map((state) => `is-${state}`));
    cell.classList.add(`is-${change.state}`);
    cell.dataset.now = change.state;
    cell.querySelector("[data-state]").textContent = change.state;
    count();
    if (change.error_code) readRest();
  });
  let ended = false;
  events.addEventListener("end", () => {
    events.close();
    ended = true;
    tell("stream", true);
    freshen(["after"]);
  });
  events.addEventListener("open", () => tell("stream", true));
  // Unless it is closed, it connects again by itself.
  events.addEventListener("error", () => tell("stream", false));

  // A stream that has fallen silent looks like one without changes. So the page is read besides; and
  // instead of the stream, if there is none.
  const look = async () => {
    if (!document.hidden) {
      const instead = events.readyState === EventSource.CLOSED && !ended;
      if (!(await freshen(instead ? ["live", "after"] : ["after"]))) return;
      if (instead && !lost.has("page")) tell("stream", true);
    }
    if (ended && !lost.has("page")) return;
    setTimeout(look, events.readyState === EventSource.OPEN ? 10_000 : 3000);
  };
  setTimeout(look, 5000);
}

/** Let all boxes of a list be ticked at once, and say how many are. */
function choose(form) {
  const boxes = [...form.querySelectorAll("input[type=checkbox][name=cvm]")];
  const head = form.querySelector("th.tick");
  const button = form.querySelector(".actions button");
  if (!boxes.length || !head) return;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Choose all on this page");
  head.replaceChildren(all);
  const tell = () => {
    const ticked = boxes.filter((box) => box.checked).length;
    all.checked = ticked === boxes.length;
    all.indeterminate = ticked > 0 && ticked < boxes.length;
    button.disabled = ticked === 0;
    button.textContent = ticked ? `Stop ${ticked} CVM${ticked === 1 ? "" : "s"} …` : "Stop those that are ticked …";
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    tell();
  });
  form.addEventListener("change", tell);
  tell();
}

sendOnce(document);
sendOnceMore();
stayFresh();
const live = document.querySelector("#live[data-events]");
if (live) follow(live);
document.querySelectorAll("form[data-choose]").forEach(choose);
