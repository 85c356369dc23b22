// See LICENSE for details.
// How one capture looks: a card while it runs, then a row.

import { compact, count, filterText, labels, link, make, Meter, Plot, say, seconds, show, size, when } from "./draw.js";
import { SAMPLES } from "./model.js";

const STOPS = {
  packets: "packet limit",
  bytes: "byte limit",
  timeout: "idle timeout",
  duration: "duration",
  cancelled: "cancelled",
  shutdown: "daemon stopped",
  memory: "out of memory",
  "interface-lost": "device lost",
};
const WORRYING = new Set(["memory", "interface-lost", "failed"]);

function figure(name, plot) {
  const value = make("span.value");
  const most = make("span.most");
  const caption = make("figcaption", {}, make("span.label", {}, name), value, most);
  return { value, most, plot, element: make("figure", {}, caption, plot.element) };
}

export class Card {
  constructor(capture, cancel) {
    const title = `card-${capture.id}`;
    this.meters = {
      packets: new Meter("Packets"),
      bytes: new Meter("File size"),
      timeout: new Meter("Idle"),
      duration: new Meter("Duration"),
    };
    this.rate = figure("Packets/s", new Plot("Packets per second", SAMPLES));
    this.lost = figure("Lost/s", new Plot("Lost packets per second", SAMPLES, "bars"));
    this.state = make("span.badge");
    this.cancel = make("button.quiet.danger", { type: "button", onclick: () => cancel(capture) }, "Cancel");
    this.cancel.setAttribute("aria-describedby", title);
    const head = make(
      "div.card-head",
      {},
      make("h3", { id: title }, capture.interface ?? "?"),
      capture.alias && make("span.muted", {}, capture.alias),
      this.state,
      make("span.id", {}, `${capture.node ?? ""} · ${capture.id}`),
      this.cancel,
    );
    const meters = make("div.meters", {}, ...Object.values(this.meters).map((each) => each.element));
    const plots = make("div.plots", {}, this.rate.element, this.lost.element);
    this.element = make(
      "li.card",
      { "aria-labelledby": title, "data-id": capture.id },
      head,
      make("div.what", {}, filterText(capture), labels(capture)),
      make("div.body", {}, meters, plots),
    );
  }

  update(capture) {
    const limits = capture.limits ?? {};
    const { packets, bytes, timeout, duration } = this.meters;
    say(this.state, capture.armed ? "running" : "starting");
    this.state.dataset.kind = capture.armed ? "live" : "wait";
    packets.set(capture.packets / limits.packets, `${count(capture.packets)} of ${count(limits.packets)}`);
    bytes.set(capture.bytes / limits.bytes, `${size(capture.bytes)} of ${size(limits.bytes)}`);
    const idle = `${capture.idleUnknown ? "≥ " : ""}${seconds(capture.idle)}`;
    timeout.set(capture.idle / limits.timeout, `${idle} of ${seconds(limits.timeout)}`);
    duration.set(capture.elapsed / limits.duration, `${seconds(capture.elapsed)} of ${seconds(limits.duration)}`);
    const most = this.rate.plot.draw(capture.samples.map((each) => each.rate));
    say(this.rate.value, compact(capture.rate));
    say(this.rate.most, most ? `max ${compact(most)}` : "");
    this.lost.plot.draw(capture.samples.map((each) => each.lost));
    say(this.lost.value, compact(capture.samples.at(-1)?.lost ?? 0));
    say(this.lost.most, capture.lost ? `${count(capture.lost)} in all` : "none lost");
    this.lost.element.dataset.bad = String(capture.lost > 0);
  }
}

// What has become of the file at each sink.
function outcomes(capture, notes) {
  const found = [];
  const told = new Map();
  capture.failed.filter((each) => each.stage === "store").forEach((each) => told.set(each.sink, each));
  capture.stored.forEach((each) => told.set(each.sink, each));
  for (const sink of capture.sinks ?? []) {
    if (!told.has(sink)) {
      found.push(make("li", { "data-kind": "wait" }, make("span.sink", {}, sink), "on its way"));
    }
  }
  for (const [sink, each] of told) {
    if (each.url !== undefined) {
      const name = String(each.url).replace(/[?#].*$/s, "").split("/").pop();
      found.push(make("li", { "data-kind": "ok" }, make("span.sink", {}, sink), link(each.url, short(name) || each.url, notes)));
    } else {
      const where = each.lost ? "lost" : "waits in the spool";
      const kind = each.lost ? "bad" : "warn";
      found.push(make("li", { "data-kind": kind }, make("span.sink", {}, sink), `${where}: ${each.reason ?? ""}`));
    }
  }
  capture.failed
    .filter((each) => each.stage !== "store")
    .forEach((each) => found.push(make("li", { "data-kind": "bad" }, each.reason ?? "failed")));
  return found;
}

function short(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

const COLUMNS = ["Capture", "Stopped by", "Packets", "Size", "Lost", "File"];

export function table() {
  const head = COLUMNS.map((name) => make("th", { role: "columnheader", scope: "col" }, name));
  const body = make("tbody", { role: "rowgroup" });
  const element = make(
    "table",
    { role: "table", "aria-labelledby": "finished-title" },
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...head)),
    body,
  );
  return { element, body };
}

export class Row {
  // download: called to fetch the file with the token. notes: with news.
  constructor(capture, download, notes) {
    this.notes = notes;
    this.download = download;
    this.cells = COLUMNS.map((name, i) =>
      make(i ? "td" : "th", { role: i ? "cell" : "rowheader", scope: i ? undefined : "row", "data-name": name }),
    );
    this.element = make("tr", { role: "row", "data-id": capture.id }, ...this.cells);
  }

  update(capture) {
    const [what, stop, packets, bytes, lost, file] = this.cells;
    // Rows change a few times at most: from on its way to stored.
    const focused = this.element.contains(document.activeElement) && document.activeElement.textContent;
    what.replaceChildren(
      make(
        "div.card-head",
        {},
        make("strong", {}, capture.interface ?? "?"),
        ...(capture.alias ? [make("span.muted", {}, capture.alias)] : []),
        make("span.id", {}, when(capture.ended), ` · ${capture.node ?? ""} · ${capture.id}`),
      ),
      make("div.what", {}, filterText(capture), labels(capture)),
    );
    const reason = capture.stop ?? "failed";
    stop.replaceChildren(make("span.badge", { "data-kind": WORRYING.has(reason) ? "bad" : "calm", "data-stop": reason }, STOPS[reason] ?? reason));
    say(packets, count(capture.packets));
    say(bytes, capture.packets ? size(capture.bytes) : "–");
    say(lost, count(capture.lost));
    lost.dataset.bad = String(capture.lost > 0);
    const sinks = outcomes(capture, this.notes);
    file.replaceChildren(
      sinks.length ? make("ul.outcomes", {}, ...sinks) : make("span.muted", {}, capture.packets ? "not kept" : "no packets, no file"),
    );
    if (capture.kept) {
      file.append(this.downloading(capture));
    }
    if (focused) {
      [...this.element.querySelectorAll("a, button")].find((each) => each.textContent === focused)?.focus();
    }
  }

  downloading(capture) {
    const href = `captures/${encodeURIComponent(capture.id)}/file`;
    const name = capture.filename ?? `${capture.id}.pcap`;
    const click = (event) => this.download(event, href, name);
    return make("a.button", { href, download: name, onclick: click }, "Download");
  }
}
