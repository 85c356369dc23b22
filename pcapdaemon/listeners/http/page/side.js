// See LICENSE for details.
// What stands beside the captures: refusals and health.

import { count, labels, make, show, say, size, when } from "./draw.js";

export class Refusal {
  constructor(refusal) {
    this.element = make(
      "li",
      {},
      make(
        "div.card-head",
        {},
        make("span.badge", { "data-kind": "warn" }, refusal.reason ?? "refused"),
        make("span.id", {}, when(refusal.time), refusal.bus ? ` · by ${refusal.bus}` : ""),
      ),
      make("p", {}, refusal.detail ?? ""),
      labels(refusal),
    );
  }

  update() {
    // A refusal stays what it is.
  }
}

function rows(title, found) {
  if (!found.length) {
    return [];
  }
  const items = found.map(([name, kind, text]) =>
    make("li", { "data-kind": kind }, make("span.dot"), make("span.name", {}, name), make("span.muted", {}, text)),
  );
  return [make("h3", {}, title), make("ul.states", {}, ...items)];
}

function bus([name, connected]) {
  return [name, connected ? "ok" : "bad", connected ? "connected" : "not connected"];
}

// Publishers of events: connected, and what they had to drop.
function publisher([name, state]) {
  if (typeof state !== "object" || state === null) {
    return bus([name, state]);
  }
  const dropped = state.dropped ? `, ${count(state.dropped)} events dropped` : "";
  const kind = !state.connected ? "bad" : state.dropped ? "warn" : "ok";
  return [name, kind, (state.connected ? "connected" : "not connected") + dropped];
}

const SINKS = { ok: "ok", failing: "bad", unused: "calm" };

function sink([name, state]) {
  const failed = state.failed ? `, ${count(state.failed)} failed` : "";
  const text = state.state === "unused" ? "nothing stored yet" : `${count(state.stored)} stored${failed}`;
  return [name, SINKS[state.state] ?? "warn", text];
}

function spooled([name, waiting]) {
  const many = typeof waiting === "object" ? Object.values(waiting)[0] : waiting;
  return [name, many ? "warn" : "calm", many ? `${count(many)} waiting` : "nothing waiting"];
}

const entries = (object) => Object.entries(object ?? {});

// Whether it is drawn anew is for the caller: health is asked for every few seconds.
export function drawHealth(element, health) {
  const text = JSON.stringify(health);
  if (element.dataset.drawn === text) {
    return;
  }
  element.dataset.drawn = text;
  const found = [
    ...rows("Requests by", entries(health.listeners).map(bus)),
    ...rows("Events to", entries(health.buses).map(publisher)),
    ...rows("Files to", entries(health.sinks).map(sink)),
    ...rows("Spool", entries(health.spool).map(spooled)),
  ];
  element.replaceChildren(...found);
}

export function drawMemory(text, meter, memory) {
  if (memory === undefined) {
    return;
  }
  say(text, size(memory.used));
  meter.set(memory.used / memory.total, `of ${size(memory.total)}`);
  show(meter.element, true);
}
