// See LICENSE for details.
// What is known of the daemon, put together from what it was asked and from what
// it tells. Knows nothing of how it looks. Everything here is bounded.

export const SAMPLES = 90; // of a plot, one a second
const FINISHED = 200;
const REFUSALS = 50;

const FIELDS = [
  ..."node bus interface alias filter snaplength limits customer alertid tags".split(" "),
  ..."request_id started finished packets bytes dropped stop filename sinks".split(" "),
];

const isCaptureFailure = (failed) => failed.stage !== "store";

function push(list, value, most) {
  list.push(value);
  if (list.length > most) {
    list.shift();
  }
}

class Capture {
  constructor(id) {
    this.id = id;
    this.armed = false;
    this.packets = 0;
    this.bytes = 0;
    this.elapsed = 0;
    this.rate = 0;
    this.samples = []; // {rate, lost}
    this.stored = [];
    this.failed = [];
    this.version = 0;
  }

  // Over: it records no more. Its file may still be on its way.
  get over() {
    return this.stop !== undefined || this.failed.some(isCaptureFailure);
  }

  get lost() {
    return (this.dropped?.kernel ?? 0) + (this.dropped?.interface ?? 0);
  }

  take(fields) {
    for (const name of FIELDS) {
      if (fields[name] !== undefined) {
        this[name] = fields[name];
      }
    }
    this.version += 1;
  }

  outcome(list, fields) {
    const same = (each) => each.sink === fields.sink && each.stage === fields.stage;
    const at = list.findIndex(same);
    list.splice(at < 0 ? list.length : at, 1, fields);
  }

  progress(fields) {
    const packets = this.packets;
    const lost = this.lost;
    const first = this.lastPacket === undefined;
    this.take(fields);
    this.armed = true;
    this.elapsed = fields.elapsed ?? 0;
    this.rate = fields.rate ?? 0;
    if (first || this.packets > packets) {
      // Nobody says when the packets of before this page came.
      this.idleUnknown = first && this.packets === packets;
      this.lastPacket = this.elapsed;
    }
    push(this.samples, { rate: this.rate, lost: first ? 0 : Math.max(0, this.lost - lost) }, SAMPLES);
  }

  get idle() {
    return this.lastPacket === undefined ? 0 : Math.max(0, this.elapsed - this.lastPacket);
  }

  // What a search looks in.
  get text() {
    const words = [this.id, this.node, this.interface, this.alias, this.filter, this.tags];
    words.push(this.customer, this.alertid, this.request_id, this.stop, this.filename);
    return words.filter((each) => each !== undefined).join(" ").toLowerCase();
  }
}

export class Model {
  // changed: called whenever something is. news: with a sentence worth telling.
  constructor(changed, news) {
    this.changed = changed;
    this.news = news;
    this.captures = new Map();
    this.refusals = [];
    this.health = undefined;
    this.known = false;
    this.totals = []; // {rate, lost} of all captures
    this.waiting = undefined;
  }

  // Events that come while the captures are asked for must wait for the answer.
  hold() {
    this.waiting ??= [];
  }

  release() {
    const waiting = this.waiting ?? [];
    this.waiting = undefined;
    waiting.forEach(([name, fields]) => this.event(name, fields));
  }

  // Everything as GET /captures has it.
  replace(summaries) {
    const before = this.captures;
    this.captures = new Map();
    for (const summary of summaries) {
      const capture = before.get(summary.id) ?? new Capture(summary.id);
      capture.take(summary);
      capture.armed ||= summary.state !== "accepted";
      capture.stored = summary.stored ?? [];
      capture.failed = summary.failed ?? [];
      capture.kept = capture.over ? summary.file !== undefined : undefined;
      capture.ended ??= capture.over ? (summary.finished ?? summary.time) : undefined;
      this.captures.set(summary.id, capture);
    }
    this.known = true;
    this.trim();
    this.changed();
  }

  // What GET /captures/ID says of whether a file is kept: events do not.
  keep(id, kept) {
    const capture = this.captures.get(id);
    if (capture !== undefined) {
      capture.kept = kept;
      capture.version += 1;
      this.changed();
    }
  }

  replaceRefusals(refusals) {
    this.refusals = refusals.slice(-REFUSALS).reverse();
    this.changed();
  }

  setHealth(health) {
    this.health = health;
    this.changed();
  }

  event(name, fields) {
    if (this.waiting !== undefined) {
      if (this.waiting.length < 10000) {
        this.waiting.push([name, fields]);
      }
      return;
    }
    if (name === "rejected") {
      this.refused(fields);
    } else {
      this.ofCapture(name, fields);
    }
    this.changed();
  }

  refused(fields) {
    const same = (each) => each.id === fields.id && each.time === fields.time;
    if (!this.refusals.some(same)) {
      this.refusals.unshift(fields);
      this.refusals.length = Math.min(this.refusals.length, REFUSALS);
      this.news(`Refused: ${fields.reason}. ${fields.detail ?? ""}`);
    }
  }

  ofCapture(name, fields) {
    let capture = this.captures.get(fields.id);
    if (capture === undefined) {
      if (name !== "accepted") {
        return; // of one that was forgotten
      }
      capture = new Capture(fields.id);
      this.captures.set(fields.id, capture);
    }
    const where = `Capture on ${capture.interface ?? fields.interface}`;
    const over = capture.over;
    if (name === "progress") {
      if (!over) {
        capture.progress(fields);
      }
      return;
    }
    capture.take(fields);
    if (name === "armed") {
      capture.armed = true;
      capture.lastPacket ??= 0;
      this.news(`${where} started`);
    } else if (name === "stored") {
      capture.outcome(capture.stored, fields);
    } else if (name === "failed") {
      capture.outcome(capture.failed, fields);
      this.news(`${where} failed: ${fields.reason ?? ""}`);
    }
    if (capture.over && !over) {
      capture.ended = fields.finished ?? fields.time;
      capture.rate = 0;
      if (name === "completed") {
        this.news(`${where} ended: ${fields.stop}, ${fields.packets} packets`);
      }
      this.trim();
    }
  }

  // Forget the oldest that are over.
  trim() {
    let over = [...this.captures.values()].filter((each) => each.over).length;
    for (const [id, capture] of this.captures) {
      if (over <= FINISHED) {
        break;
      }
      if (capture.over) {
        this.captures.delete(id);
        over -= 1;
      }
    }
  }

  // Once a second: the sum over all captures.
  tick() {
    let rate = 0;
    let lost = 0;
    for (const capture of this.captures.values()) {
      if (!capture.over) {
        rate += capture.rate;
        lost += capture.samples.at(-1)?.lost ?? 0;
      }
    }
    push(this.totals, { rate, lost }, SAMPLES);
  }

  // Those that run and those that are over, the newest first.
  lists(search) {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const running = [];
    const finished = [];
    for (const capture of this.captures.values()) {
      const text = words.length ? capture.text : "";
      if (words.every((word) => text.includes(word))) {
        (capture.over ? finished : running).push(capture);
      }
    }
    finished.sort((a, b) => (a.ended < b.ended ? 1 : a.ended > b.ended ? -1 : 0));
    return { running: running.reverse(), finished };
  }
}
