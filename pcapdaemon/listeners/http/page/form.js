// See LICENSE for details.
// The form that asks for captures. What is wrong with a request the daemon says
// itself, and it is shown at the field that it means.

import { count, make, say, seconds, show, size } from "./draw.js";

const NUMBERS = ["packets", "bytes", "timeout", "duration", "snap", "alertid"];
const TEXTS = ["bpf", "direction", "tags", "customer", "request_id"];
const FIELD = {
  "bad-filter": "bpf",
  "filter-too-complex": "bpf",
  "unknown-interface": "interface",
  "unknown-alias": "interface",
};
const PAUSE = 300; // ms after the last key
const $ = (id) => document.getElementById(id);

// A number as JSON has it; anything else goes as it is, for the daemon to refuse.
function number(text) {
  const value = Number(text);
  return text !== "" && Number.isFinite(value) ? value : text;
}

export class Form {
  // node: says whom to ask. sent: called with the ids of what was taken.
  constructor(api, node, sent) {
    this.api = api;
    this.node = node;
    this.sent = sent;
    this.devices = [];
    this.checks = 0;
    const form = $("form");
    form.addEventListener("submit", (event) => this.submit(event));
    form.addEventListener("keydown", (event) => {
      // In the filter, too, Enter sends; a filter has no lines.
      if (event.key === "Enter" && event.target === $("bpf") && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("input", (event) => this.typed(event.target));
    form.elements.by.forEach((each) => each.addEventListener("change", () => this.choices()));
  }

  // Devices.

  async load() {
    const said = await this.api.ask("GET", "interfaces");
    this.devices = said.interfaces;
    this.limits(said.limits);
    this.choices();
  }

  // The daemon's own limits, where it tells them.
  limits(limits = {}) {
    const texts = { packets: count, bytes: count, timeout: seconds, duration: seconds };
    for (const [name, text] of Object.entries(texts)) {
      const most = limits[`max${name}`];
      $(name).placeholder = most === undefined ? "–" : `at most ${name === "bytes" ? size(most) : text(most)}`;
    }
    if (limits.defaulttimeout !== undefined) {
      $("timeout").placeholder = `${seconds(limits.defaulttimeout)} if empty`;
    }
    $("snap").placeholder = limits.snaplength === undefined ? "–" : `${count(limits.snaplength)} if empty`;
  }

  get by() {
    return $("form").elements.by.value;
  }

  chosen() {
    return [...$("choices").querySelectorAll("input:checked")].map((each) => each.value);
  }

  choices() {
    const aliases = new Map();
    for (const device of this.devices) {
      for (const alias of device.aliases ?? []) {
        aliases.set(alias, [...(aliases.get(alias) ?? []), device.name]);
      }
    }
    const aliasChoice = $("form").elements.by[1];
    aliasChoice.disabled = aliases.size === 0;
    if (aliases.size === 0 && aliasChoice.checked) {
      $("form").elements.by[0].checked = true;
    }
    const before = new Set(this.chosen());
    const options =
      this.by === "alias"
        ? [...aliases].map(([name, devices]) => this.option(name, devices.join(", "), "", before))
        : this.devices.map((device) => this.option(device.name, this.about(device), device.capture === false ? (device.why ?? "cannot be captured") : "", before));
    $("choices").replaceChildren(...(options.length ? options : [make("p.empty", {}, "This daemon sees no device.")]));
    this.check();
  }

  about(device) {
    const said = [];
    if (device.aliases?.length) {
      said.push(device.aliases.join(", "));
    }
    said.push(...(device.addresses ?? []).slice(0, 2));
    if (device.up === false) {
      said.push("down");
    }
    if (!said.length && device.linkname) {
      said.push(device.linkname);
    }
    return said.join(" · ");
  }

  option(name, about, why, before) {
    const input = make("input", { type: "checkbox", value: name, disabled: why !== "" });
    input.checked = before.has(name) && !why;
    return make("label.choice", { title: why || `${name} ${about}` }, input, make("span.name", {}, name), make("span.muted", {}, why || about));
  }

  // The filter.

  typed(element) {
    const name = element.closest("#choices") ? "interface" : element.name;
    this.fault(name, "");
    if (name === "bpf" || name === "interface") {
      clearTimeout(this.timer);
      this.checking?.abort();
      this.checks += 1;
      this.verdict("");
      this.timer = setTimeout(() => this.check(), PAUSE);
    }
  }

  verdict(text, kind = "") {
    say($("check"), text);
    $("check").dataset.kind = kind;
    $("bpf").setAttribute("aria-invalid", String(kind === "bad"));
  }

  // What the filter has to fit: where nothing is chosen yet, any device will do.
  targets() {
    const chosen = this.chosen();
    const device = this.devices.find((each) => each.capture !== false)?.name ?? "any";
    return chosen.length ? { [this.by]: chosen } : { interface: [device] };
  }

  async check() {
    this.checking?.abort();
    const mine = ++this.checks;
    const bpf = $("bpf").value.trim();
    if (!bpf) {
      this.verdict("");
      return;
    }
    this.checking = new AbortController();
    this.verdict("Checking …");
    const question = { bpf, ...this.targets() };
    let verdict;
    try {
      const said = await this.api.ask("POST", "filters", question, this.checking.signal);
      verdict = [`The filter is good${said.seconds === undefined ? "" : `, checked in ${count(said.seconds * 1000)} ms`}`, "ok"];
    } catch (error) {
      // Of anything else that is wrong the request itself will be told.
      const bad = FIELD[error.reason] === "bpf" || error.message?.startsWith("bpf");
      verdict = bad ? [error.message, "bad"] : ["", ""];
    }
    if (mine === this.checks) {
      this.verdict(...verdict);
    }
  }

  // Sending.

  fault(name, text) {
    const place = $(`error-${name}`);
    if (!place) {
      return;
    }
    say(place, text);
    show(place, text !== "");
    if (name !== "form") {
      $(name)?.setAttribute("aria-invalid", String(text !== ""));
      this.fault("form", "");
    }
  }

  // Show what the daemon said at the field that it means.
  refuse(problem) {
    const key = /^"?([a-z_]+)/.exec(problem.message)?.[1];
    const name = FIELD[problem.reason] ?? (key === "alias" || key === "interface" ? "interface" : key);
    const known = name === "interface" || [...NUMBERS, ...TEXTS].includes(name);
    if (name === "bpf") {
      this.verdict("");
    }
    this.fault(known ? name : "form", problem.message);
    if (known) {
      const field = name === "interface" ? $("choices").querySelector("input") : $(name);
      const more = field?.closest("details");
      if (more) {
        more.open = true;
      }
      field?.focus();
    }
  }

  get request() {
    const request = { node: this.node(), [this.by]: this.chosen() };
    for (const name of [...TEXTS, ...NUMBERS]) {
      const text = $(name).value.trim();
      if (text) {
        request[name] = NUMBERS.includes(name) ? number(text) : text;
      }
    }
    return request;
  }

  async submit(event) {
    event.preventDefault();
    if (this.busy) {
      return;
    }
    ["form", "interface", ...NUMBERS, ...TEXTS].forEach((name) => this.fault(name, ""));
    if (!this.chosen().length) {
      this.refuse({ reason: "unknown-interface", message: `Choose what to capture on: at least one ${this.by === "alias" ? "alias" : "device"}.` });
      return;
    }
    this.busy = true;
    $("send").setAttribute("aria-busy", "true");
    try {
      const said = await this.api.ask("POST", "captures", this.request);
      this.sent(said.ids);
    } catch (error) {
      this.refuse(error);
    } finally {
      this.busy = false;
      $("send").removeAttribute("aria-busy");
    }
  }
}
