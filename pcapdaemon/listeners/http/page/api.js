// See LICENSE for details.
// The conversation with the daemon: requests with the token, and the stream of
// events, which is taken up again wherever it was lost.

const KEY = "pcapdaemon.token";
const SILENCE = 40000; // ms; the daemon says something every 15 s
const LONGEST = 15000; // ms between two attempts
const BUFFER = 1 << 20; // characters of one event, at most

export class Problem extends Error {
  constructor(status, reason, detail) {
    super(detail);
    this.status = status;
    this.reason = reason;
  }
}

// Takes text as it comes, and tells of each event in it.
export class Parser {
  constructor(tell) {
    this.tell = tell;
    this.rest = "";
    this.clear();
  }

  clear() {
    this.event = "message";
    this.data = [];
  }

  feed(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    if (this.rest.length > BUFFER) {
      throw new Error("an event without end");
    }
    lines.forEach((line) => this.line(line.replace(/\r$/, "")));
  }

  line(line) {
    if (line === "") {
      if (this.data.length) {
        this.tell(this.event, this.data.join("\n"));
      }
      this.clear();
      return;
    }
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") {
      this.data.push(value);
    } else if (name === "event") {
      this.event = value;
    } else if (name === "id") {
      this.id = value;
    }
  }
}

export class Api {
  // unauthorized: called when the daemon wants a token, or another one.
  constructor(unauthorized) {
    this.unauthorized = unauthorized;
    this.token = sessionStorage.getItem(KEY) ?? "";
    this.attempt = 0;
    this.last = "";
  }

  remember(token) {
    this.token = token;
    if (token) {
      sessionStorage.setItem(KEY, token);
    } else {
      sessionStorage.removeItem(KEY);
    }
  }

  fetch(path, options = {}) {
    const headers = { ...options.headers };
    if (this.token) {
      headers.Authorization = `Bearer ${this.token}`;
    }
    return fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  }

  // The answer's JSON; what is refused is a Problem.
  async ask(method, path, body, signal) {
    const options = { method, signal };
    if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers = { "Content-Type": "application/json" };
    }
    const answer = await this.fetch(path, options);
    if (!answer.ok) {
      throw await this.problem(answer);
    }
    return answer.json();
  }

  async problem(answer) {
    let said = {};
    try {
      said = await answer.json();
    } catch {
      // Something in between has answered, a proxy perhaps.
    }
    if (answer.status === 401) {
      this.unauthorized(this.token !== "");
    }
    const detail = said.detail ?? `the answer was ${answer.status}`;
    return new Problem(answer.status, said.reason ?? "failed", String(detail));
  }

  async download(path) {
    const answer = await this.fetch(path);
    if (!answer.ok) {
      throw await this.problem(answer);
    }
    return answer.blob();
  }

  // Follow the events until the end of the page.
  // opened: called with each new connection. tell: with the name and the fields
  // of each event. state: with what the connection is like.
  follow({ opened, tell, state }) {
    this.state = state;
    this.handlers = { opened, tell };
    this.connect();
  }

  async connect() {
    clearTimeout(this.timer);
    this.stop?.abort();
    const stop = (this.stop = new AbortController());
    let why;
    try {
      await this.read(stop);
      why = "the daemon ended the stream";
    } catch (error) {
      why = error.message;
      if (error.status === 401) {
        this.state("token", "Needs the token");
        return; // connect() is called when there is one
      }
    }
    if (stop === this.stop) {
      this.again(why);
    }
  }

  again(why) {
    const longest = Math.min(LONGEST, 1000 * 2 ** this.attempt++);
    const wait = longest * (0.5 + Math.random() / 2);
    const seconds = Math.max(1, Math.round(wait / 1000));
    this.state("lost", `Disconnected, trying again in ${seconds} s`, why);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  async read(stop) {
    const headers = { Accept: "text/event-stream" };
    if (this.last) {
      headers["Last-Event-ID"] = this.last;
    }
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(new Error("it fell silent")), SILENCE);
    };
    heard();
    try {
      const answer = await this.fetch("events", { headers, signal: stop.signal });
      if (!answer.ok) {
        throw await this.problem(answer);
      }
      this.attempt = 0;
      this.state("live", "Live");
      this.handlers.opened();
      const parser = new Parser((event, data) => this.handlers.tell(event, JSON.parse(data)));
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) {
          return;
        }
        heard();
        parser.feed(decoder.decode(value, { stream: true }));
        this.last = parser.id ?? this.last;
      }
    } finally {
      clearTimeout(silence);
    }
  }
}
