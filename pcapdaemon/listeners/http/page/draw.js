// See LICENSE for details.
// Elements, numbers and plots. Texts become text nodes and nothing else.

const SVG = "http://www.w3.org/2000/svg";

// make("p.class", {attribute: value, onclick: function}, child, ...)
export function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((each) => each !== undefined));
  return element;
}

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  return element;
}

// Touches the document only where something has changed.
export function say(element, text) {
  const wanted = String(text ?? "");
  if (element.textContent !== wanted) {
    element.textContent = wanted;
  }
}

export function show(element, visible) {
  if (element.hidden === visible) {
    element.hidden = !visible;
  }
}

// Numbers.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const UNITS = ["B", "kB", "MB", "GB", "TB"];

export const count = (number) => whole.format(number ?? 0);
export const compact = (number) => (number < 99.95 ? tenth.format(number) : number < 10000 ? whole.format(number) : short.format(number));

export function size(bytes) {
  let value = bytes ?? 0;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 99.95 ? tenth.format(value) : whole.format(value)} ${UNITS[unit]}`;
}

export function seconds(value) {
  if (value < 99.95) {
    return `${tenth.format(value)} s`;
  }
  const total = Math.round(value);
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const [h, m, s] = parts;
  const small = h ? m && `${m} min` : s && `${s} s`;
  return (h ? `${h} h` : `${m} min`) + (small ? ` ${small}` : "");
}

// A time of day; the date, too, where it was another day.
export function when(text) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) {
    return make("span", {}, String(text ?? ""));
  }
  const clock = moment.toLocaleTimeString("en-GB");
  const today = moment.toDateString() === new Date().toDateString();
  const day = moment.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return make("time", { datetime: text, title: text }, today ? clock : `${day}, ${clock}`);
}

// A bar that fills towards a limit.
export class Meter {
  constructor(label) {
    this.fill = make("span.fill");
    this.bar = make("span.bar", { role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 }, this.fill);
    this.value = make("span.value");
    this.element = make("div.meter", {}, make("span.label", {}, label), this.value, this.bar);
  }

  set(part, text) {
    const filled = Math.max(0, Math.min(1, Number.isFinite(part) ? part : 0));
    const percent = Math.round(filled * 1000) / 10;
    say(this.value, text);
    if (this.percent !== percent) {
      this.percent = percent;
      this.bar.setAttribute("aria-valuenow", percent);
      this.fill.style.transform = `scaleX(${filled})`;
      this.bar.dataset.near = String(filled >= 0.9);
    }
    this.bar.setAttribute("aria-valuetext", text);
  }
}

// A small plot of the last values: a line over an area, or bars. The width is
// always that of `room` samples; the newest is at the right.
export class Plot {
  constructor(label, room, kind = "line") {
    this.label = label;
    this.room = room;
    this.kind = kind;
    this.svg = shape("svg", { viewBox: `0 0 ${room - 1} 32`, preserveAspectRatio: "none", role: "img", class: `plot ${kind}` });
    this.area = shape("path", { class: "area" });
    this.line = shape("path", { class: "stroke", "vector-effect": "non-scaling-stroke" });
    this.svg.append(shape("path", { class: "ground", d: `M0 31.5H${room - 1}`, "vector-effect": "non-scaling-stroke" }), this.area, this.line);
    this.element = this.svg;
  }

  // The greatest value is returned: what the upper edge means.
  draw(values) {
    const most = values.reduce((a, b) => Math.max(a, b), 0);
    const left = this.room - values.length;
    const y = (value) => (31.5 - (most ? (value / most) * 29 : 0)).toFixed(1);
    if (this.kind === "bars") {
      this.area.setAttribute("d", values.map((value, i) => (value ? `M${left + i - 0.9} 31.5V${y(value)}h.9V31.5z` : "")).join(""));
    } else {
      const points = values.map((value, i) => `${left + i} ${y(value)}`);
      const line = points.length > 1 ? `M${points.join("L")}` : "";
      this.line.setAttribute("d", line);
      this.area.setAttribute("d", line && `${line}V31.5H${left}z`);
    }
    this.svg.setAttribute("aria-label", `${this.label}: now ${compact(values.at(-1) ?? 0)}, at most ${compact(most)}`);
    return most;
  }
}

// Labels of a request: what it was marked with by whoever made it.
export function labels(capture) {
  const found = [];
  const add = (name, value) => {
    if (value !== undefined && value !== "") {
      found.push(make("li.label", {}, make("span.name", {}, name), make("span", {}, String(value))));
    }
  };
  add("customer", capture.customer);
  add("alert", capture.alertid);
  add("request", capture.request_id);
  for (const tag of String(capture.tags ?? "").split(",").slice(0, 20)) {
    add("tag", tag);
  }
  return found.length ? make("ul.labels", { "aria-label": "Labels" }, ...found) : undefined;
}

export function filterText(capture) {
  return capture.filter
    ? make("code.filter", {}, capture.filter)
    : make("span.filter.muted", {}, "all packets");
}

const LINKS = new Set(["http:", "https:", "file:", "s3:"]);

// An address as a link, where its scheme is one that captures are at; else as text.
export function link(url, text, copied) {
  let scheme = "";
  try {
    scheme = new URL(url).protocol;
  } catch {
    // It stays text.
  }
  if (!LINKS.has(scheme)) {
    return make("span.address", {}, text ?? String(url));
  }
  const opens = scheme.startsWith("http");
  return make(
    "a.address",
    {
      href: url,
      title: opens ? url : `${url} (copies the address)`,
      rel: "noopener noreferrer",
      target: opens ? "_blank" : undefined,
      // Browsers open neither of the others from a page.
      onclick: opens ? () => {} : (event) => copy(event, url, copied),
    },
    text ?? url,
  );
}

async function copy(event, url, copied) {
  event.preventDefault();
  try {
    await navigator.clipboard.writeText(url);
    copied("Address copied");
  } catch {
    copied("The address cannot be copied here; its link can, by the browser's menu");
  }
}

// Shows one page of a long list, so that the document stays small.
export class Pages {
  constructor(element, each, changed) {
    this.each = each;
    this.page = 0;
    this.text = make("span.muted");
    this.back = make("button.quiet", { type: "button", onclick: () => this.go(-1, changed) }, "Newer");
    this.on = make("button.quiet", { type: "button", onclick: () => this.go(1, changed) }, "Older");
    this.element = element;
    element.append(this.back, this.text, this.on);
  }

  go(step, changed) {
    this.page += step;
    changed();
  }

  cut(list) {
    const pages = Math.max(1, Math.ceil(list.length / this.each));
    this.page = Math.max(0, Math.min(this.page, pages - 1));
    const from = this.page * this.each;
    const shown = list.slice(from, from + this.each);
    show(this.element, pages > 1);
    say(this.text, `${count(from + 1)}–${count(from + shown.length)} of ${count(list.length)}`);
    this.back.disabled = this.page === 0;
    this.on.disabled = this.page === pages - 1;
    return shown;
  }
}

// Have a parent's children be those of some items, in their order; what is there
// already stays, with the focus in it. update(view, item) is only called for items
// whose version has changed.
export class Keyed {
  constructor(parent, create) {
    this.parent = parent;
    this.create = create;
    this.views = new Map();
  }

  // True where the focus was in something that is gone.
  update(items) {
    const wanted = new Set(items.map((item) => item.id));
    let lost = false;
    for (const [id, view] of this.views) {
      if (!wanted.has(id)) {
        lost ||= view.element.contains(document.activeElement);
        view.element.remove();
        this.views.delete(id);
      }
    }
    let next = this.parent.firstChild;
    for (const item of items) {
      let view = this.views.get(item.id);
      if (view === undefined) {
        view = this.create(item);
        this.views.set(item.id, view);
      }
      if (view.version !== item.version) {
        view.version = item.version;
        view.update(item);
      }
      if (view.element === next) {
        next = next.nextSibling;
      } else {
        this.parent.insertBefore(view.element, next);
      }
    }
    return lost;
  }
}
