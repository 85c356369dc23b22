// See LICENSE for details.
// Puts the page together: what comes from the daemon goes into the model, and what
// has changed there is drawn, a few times a second at most.

import { Api } from "./api.js";
import { Card, Row, table } from "./captures.js";
import { compact, count, Keyed, make, Meter, Pages, Plot, say, show } from "./draw.js";
import { Form } from "./form.js";
import { Model, SAMPLES } from "./model.js";
import { drawHealth, drawMemory, Refusal } from "./side.js";

const DRAWING = 200; // ms between two drawings
const HEALTH = 5000; // ms between two looks at /healthz
const $ = (id) => document.getElementById(id);

// Drawing.

let due = false;
let drawn = 0;

function soon() {
  if (!due) {
    due = true;
    const wait = Math.max(0, drawn + DRAWING - performance.now());
    setTimeout(() => requestAnimationFrame(draw), wait);
  }
}

// What is told to those who do not see it: never more than a sentence at a time.
let sentences = [];

function news(sentence) {
  if (!sentences.length) {
    setTimeout(() => {
      const many = sentences.length > 3;
      say($("news"), many ? `${sentences.length} news of captures` : sentences.join(". "));
      sentences = [];
    }, 500);
  }
  sentences.push(sentence);
}

const model = new Model(soon, news);
const api = new Api(askToken);
const finished = table();
$("finished").append(finished.element);
const cards = new Keyed($("running"), (capture) => new Card(capture, confirmCancel));
const rows = new Keyed(finished.body, (capture) => new Row(capture, download, news));
const refusals = new Keyed($("refused"), (refusal) => new Refusal(refusal));
const runningPages = new Pages($("running-pages"), 20, soon);
const finishedPages = new Pages($("finished-pages"), 20, soon);
const plots = { rate: new Plot("Packets per second", SAMPLES), lost: new Plot("Lost packets per second", SAMPLES, "bars") };
const memory = new Meter("Memory of captures");
memory.element.hidden = true;
$("plot-rate").append(plots.rate.element);
$("plot-lost").append(plots.lost.element);
$("memory").append(memory.element);

function draw() {
  due = false;
  drawn = performance.now();
  const search = $("find").value.trim();
  const lists = model.lists(search);
  say($("running-count"), count(lists.running.length));
  say($("finished-count"), count(lists.finished.length));
  say($("refused-count"), count(model.refusals.length));
  if (cards.update(runningPages.cut(lists.running))) {
    $("running-title").focus();
  }
  const ended = finishedPages.cut(lists.finished);
  ended.filter((capture) => capture.kept === undefined && capture.packets > 0).forEach(askKept);
  if (rows.update(ended)) {
    $("finished-title").focus();
  }
  refusals.update(model.refusals);
  show($("running-empty"), !lists.running.length);
  show($("finished-empty"), !lists.finished.length);
  show($("finished"), lists.finished.length > 0);
  show($("refused-empty"), !model.refusals.length);
  show($("refused"), model.refusals.length > 0);
  if (model.known) {
    say($("running-empty"), search ? "No running capture is like that." : "Nothing is captured now. Request a capture with the form, or send a request by any of the daemon’s buses.");
    say($("finished-empty"), search ? "No finished capture is like that." : "Captures that have ended show here, with where their files went.");
  }
  if (model.health) {
    say($("node"), model.health.node);
    say($("version"), `pcapdaemon ${model.health.version}`);
    document.title = `${lists.running.length ? `(${count(lists.running.length)}) ` : ""}${model.health.node} · pcapdaemon`;
    drawHealth($("health"), model.health);
    drawMemory($("tile-memory"), memory, model.health.memory);
  }
}

function tick() {
  model.tick();
  const now = model.totals.at(-1);
  let running = 0;
  for (const capture of model.captures.values()) {
    running += capture.over ? 0 : 1;
  }
  say($("tile-running"), count(running));
  say($("tile-rate"), compact(now.rate));
  say($("tile-lost"), compact(now.lost));
  $("tile-lost").dataset.bad = String(now.lost > 0);
  if (!document.hidden) {
    plots.rate.draw(model.totals.map((each) => each.rate));
    plots.lost.draw(model.totals.map((each) => each.lost));
  }
}

// The daemon.

let loading = false;
let stale = false;

// One at a time: an answer of before would take back what a later one has said.
async function reload() {
  stale = loading;
  if (loading) {
    return;
  }
  loading = true;
  model.hold();
  try {
    const [captures, refused] = await Promise.all([api.ask("GET", "captures"), api.ask("GET", "refusals")]);
    model.replace(captures.captures);
    model.replaceRefusals(refused.refusals);
  } catch (error) {
    if (error.status !== 401) {
      news(error.message);
    }
  } finally {
    loading = false;
    model.release();
  }
  if (stale) {
    reload(); // something was missed meanwhile
  }
}

function opened() {
  reload();
  form.load().catch((error) => form.fault("form", error.message));
  health();
}

function tell(name, fields) {
  if (name === "gap") {
    reload(); // some events are gone
  } else {
    model.event(name, fields);
  }
}

function state(kind, text, why = "") {
  $("connection").dataset.state = kind;
  $("connection").title = why;
  if ($("connection-text").textContent !== text) {
    say($("connection-text"), text);
  }
  if (kind !== "wait") {
    document.body.dataset.connection = kind;
  }
}

async function health() {
  try {
    model.setHealth(await api.ask("GET", "healthz"));
  } catch {
    // The connection of the events says that already.
  }
}

// Whether the file of a capture that has just ended can be had here.
async function askKept(capture) {
  capture.kept = false;
  try {
    const said = await api.ask("GET", `captures/${encodeURIComponent(capture.id)}`);
    model.keep(capture.id, said.file !== undefined);
  } catch {
    // It is forgotten already, or the connection is lost.
  }
}

// The token.

function askToken(wrong) {
  show($("forget"), false);
  say($("ask-error"), wrong ? "That is not the daemon’s token." : "");
  show($("ask-error"), wrong);
  $("token").setAttribute("aria-invalid", String(wrong));
  api.remember("");
  if (!$("ask").open) {
    $("token").value = "";
    $("ask").showModal();
  }
  $("token").select();
}

$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  if (token) {
    api.remember(token);
    show($("forget"), true);
    $("ask").close();
    state("wait", "Connecting");
    api.connect();
  }
});
// Without a token there is nothing to see.
$("ask").addEventListener("cancel", (event) => event.preventDefault());

$("forget").addEventListener("click", () => {
  api.remember("");
  location.reload();
});

// Ending a capture.

let ending;

function confirmCancel(capture) {
  ending = capture;
  say($("confirm-text"), `It captures on ${capture.interface} and has ${count(capture.packets)} packets. What it has is kept and stored.`);
  $("confirm").showModal();
}

$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-yes").addEventListener("click", async () => {
  $("confirm").close();
  try {
    await api.ask("DELETE", `captures/${encodeURIComponent(ending.id)}`);
  } catch (error) {
    note(error.message);
  }
});

// Something that went wrong on the way, where everybody sees it.
function note(text) {
  document.querySelector(".toast")?.remove();
  const toast = make("p.toast", { role: "alert" }, text);
  document.body.append(toast);
  setTimeout(() => toast.remove(), 8000);
}

async function download(event, href, name) {
  if (!api.token) {
    return; // the browser can do it alone
  }
  event.preventDefault();
  try {
    const address = URL.createObjectURL(await api.download(href));
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  } catch (error) {
    note(error.message);
  }
}

const form = new Form(
  api,
  () => model.health?.node ?? "any",
  (ids) => {
    news(ids.length === 1 ? "The request was taken" : `The request was taken: ${ids.length} captures`);
    if (!matchMedia("(min-width: 62rem)").matches) {
      $("request").open = false;
      $("running-title").focus();
      $("running-title").scrollIntoView();
    }
  },
);

$("find").addEventListener("input", () => {
  runningPages.page = finishedPages.page = 0;
  soon();
});
document.addEventListener("visibilitychange", soon);
$("request").open = matchMedia("(min-width: 62rem)").matches;
show($("forget"), api.token !== "");
setInterval(tick, 1000);
setInterval(() => document.hidden || health(), HEALTH);
tick();
health();
api.follow({ opened, tell, state });
