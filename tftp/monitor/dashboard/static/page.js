// The page: takes the steps of GET /events in, and draws what they add up to.
//
// Names and messages come from the network, whoever sends them. They reach the document through
// textContent and setAttribute alone; nothing here makes HTML of a string.

const $ = (id) => document.getElementById(id);

// ---- numbers for people --------------------------------------------------------------------

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

function octets(amount) {
  let unit = 0;
  while (amount >= 999.5 && unit < UNITS.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${unit === 0 || amount >= 99.95 ? Math.round(amount) : amount.toFixed(1)} ${UNITS[unit]}`;
}

const rate = (amount) => `${octets(amount)}/s`;

const whole = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");

const plural = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;

function seconds(time) {
  if (time < 10) return `${Math.max(0, time).toFixed(1)} s`;
  if (time < 60) return `${Math.round(time)} s`;
  if (time < 3600) return `${Math.floor(time / 60)} min ${Math.round(time % 60)} s`;
  return `${Math.floor(time / 3600)} h ${Math.floor((time % 3600) / 60)} min`;
}

// The same for narrow columns, where nobody needs the smaller unit.
function about(time) {
  if (time < 60) return `${Math.max(0, Math.round(time))} s`;
  return time < 3600 ? `${Math.floor(time / 60)} min` : `${Math.floor(time / 3600)} h`;
}

function roundTrip(time) {
  if (time === null) return "";
  if (time < 0.001) return `${Math.round(time * 1e6)} µs`;
  return time < 1 ? `${(time * 1000).toFixed(time < 0.1 ? 1 : 0)} ms` : `${time.toFixed(2)} s`;
}

function ago(time) {
  if (time < 5) return "now";
  if (time < 60) return `${Math.floor(time)} s ago`;
  if (time < 3600) return `${Math.floor(time / 60)} min ago`;
  if (time < 86400) return `${Math.floor(time / 3600)} h ago`;
  return `${Math.floor(time / 86400)} d ago`;
}

const OUTCOMES = {
  "done": "done",
  "unconfirmed": "done, the last block was never confirmed",
  "probed": "asked for the size only",
  "peer-error": "ended by the client",
  "protocol-error": "the client broke the protocol",
  "timed-out": "the client fell silent",
  "unreachable": "the client is unreachable",
  "crashed": "its process died",
  "storage-error": "failed",
  "aborted": "aborted",
  "refused": "refused",
};
const SUCCESSES = ["done", "unconfirmed", "probed"];

function reason(ending) {
  const words = OUTCOMES[ending.outcome] ?? ending.outcome;
  const { message } = ending;
  if (!message || ending.outcome === "timed-out") return words;
  return `${words}: ${message}`;
}

const sentence = (words) => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;

const hostOf = (peer) => peer.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");

// ---- what is known of the servers ----------------------------------------------------------

const servers = new Map();
let acting = false;
let build = null;

class Server {
  constructor(place) {
    this.place = place;
    this.forget();
  }

  forget() {
    this.about = {};
    this.state = { connected: false, reason: "not connected yet", state: "unknown" };
    this.totals = null;
    this.samples = [];
    this.transfers = new Map();
    this.running = 0;
    this.failures = [];
    this.endings = [];
    this.clients = [];
    this.files = [];
    this.errors = [];
    this.offset = 0;
  }

  // The server's clock now.
  get now() {
    return Date.now() / 1000 + this.offset;
  }

  get label() {
    const addresses = this.about.addresses ?? [];
    return addresses.length ? `${this.about.host} ${addresses.join(", ")}` : this.place;
  }

  apply(step) {
    if (step.reset) this.forget();
    if (step.time) this.offset = step.time - Date.now() / 1000;
    for (const part of ["about", "state", "totals", "clients", "files", "errors"]) {
      if (step[part]) this[part] = step[part];
    }
    if (step.samples) {
      this.samples.push(...step.samples);
      this.samples.splice(0, this.samples.length - 600);
    }
    for (const [part, most] of [["failures", 100], ["endings", 50]]) {
      if (step[part]) this[part] = [...this[part], ...step[part]].slice(-most);
    }
    if (step.transfers) this.move(step.transfers);
  }

  move({ new: begun, moved, gone, running }) {
    for (const number of gone) this.transfers.delete(number);
    for (const row of begun) this.transfers.set(row.transfer, { ...row, ...values(row.values) });
    for (const [number, ...rest] of moved) {
      const row = this.transfers.get(number);
      if (row) Object.assign(row, values(rest));
    }
    this.running = running;
  }
}

function values([state, size, payload, speed, round_trip, resent]) {
  return { state, size, payload, rate: speed, round_trip, resent };
}

// ---- the stream ----------------------------------------------------------------------------

const PATIENCE = 25_000;  // milliseconds of silence after which the stream is taken for dead
const TOKEN = "tftp-token";

let token = sessionStorage.getItem(TOKEN);
let wake = null;

function remember(secret) {
  token = secret;
  if (secret === null) sessionStorage.removeItem(TOKEN);
  else sessionStorage.setItem(TOKEN, secret);
  draw();
}

const authorization = () =>
  token === null ? {} : { authorization: `Bearer ${encodeURIComponent(token)}` };

async function follow() {
  let wait = 500;
  for (;;) {
    let why = "";
    try {
      await read(() => { wait = 500; });
      why = "The connection has ended";
    } catch (error) {
      if (error instanceof Denied) {
        await askToLook(error.message);
        continue;
      }
      why = error instanceof Refusal ? error.message : "The page’s server is out of reach";
    }
    document.body.classList.add("away");
    $("link-text").textContent = `${why}; reconnecting …`;
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, wait);
    });
    wait = Math.min(2 * wait, 10_000);
  }
}

// A device that wakes up should not wait for the rest of a pause.
addEventListener("online", () => wake?.());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) wake?.();
});

class Refusal extends Error {}
class Denied extends Error {}

// EventSource could neither send the token nor tell why it was refused.
async function read(opened) {
  const abort = new AbortController();
  let watchdog = setTimeout(() => abort.abort(), PATIENCE);
  try {
    const response = await fetch("events", { headers: authorization(), signal: abort.signal, cache: "no-store" });
    if (!response.ok) {
      const message = await explanation(response);
      throw response.status === 401 || response.status === 403 ? new Denied(message) : new Refusal(message);
    }
    opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), PATIENCE);
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      events.forEach(take);
    }
  } finally {
    clearTimeout(watchdog);
    abort.abort();
  }
}

async function explanation(response) {
  try {
    return (await response.json()).error ?? response.statusText;
  } catch {
    return response.statusText || `status ${response.status}`;
  }
}

function take(text) {
  let name = "", data = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (name === "hello") hello(JSON.parse(data));
  if (name === "step") step(JSON.parse(data));
}

function hello(message) {
  // After an update, this script may not understand what comes.
  if (build !== null && build !== message.build) location.reload();
  build = message.build;
  acting = message.acting;
  servers.clear();
  for (const place of message.servers) servers.set(place, new Server(place));
  $("version").textContent = message.version;
  document.body.classList.remove("away");
  $("link-text").textContent = "Live";
  draw();
}

function step(message) {
  for (const [place, changes] of Object.entries(message)) servers.get(place)?.apply(changes);
  draw();
}

// ---- orders --------------------------------------------------------------------------------

const send = (order) => post("orders", JSON.stringify(order));
const check = () => post("token", null);

async function post(where, body) {
  const headers = { "content-type": "application/json", ...authorization() };
  const response = await fetch(where, { method: "POST", headers, body });
  if (response.ok) return;
  if (response.status === 401 || response.status === 403) {
    remember(null);
    throw new Denied(await explanation(response));
  }
  throw new Refusal(await explanation(response));
}

// Ask before acting, and for the token where it is not known. `act` may throw: it is asked again.
async function ask({ title, text, yes, no = "Keep it", calm = false, secret = token === null, act }) {
  const dialog = $("dialog"), form = $("dialog-form"), field = $("dialog-secret");
  if (dialog.open) {
    const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    dialog.close("no");
    await closed;
  }
  $("dialog-title").textContent = title;
  $("dialog-text").textContent = text;
  $("dialog-yes").textContent = yes;
  $("dialog-yes").classList.toggle("calm", calm);
  $("dialog-no").textContent = no;
  $("dialog-error").textContent = "";
  $("dialog-token").hidden = !secret;
  field.required = secret;
  field.value = "";
  return new Promise((resolve) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      if (!$("dialog-token").hidden) token = field.value;
      $("dialog-yes").disabled = true;
      try {
        await act();
        if (token !== null) remember(token);
        dialog.close("yes");
      } catch (error) {
        $("dialog-error").textContent = sentence(error.message || "it did not work");
        if (error instanceof Denied) {
          $("dialog-token").hidden = false;
          field.required = true;
          field.select();
          field.focus();
        }
      } finally {
        $("dialog-yes").disabled = false;
      }
    };
    $("dialog-no").onclick = () => dialog.close("no");
    dialog.onclose = () => {
      field.value = "";
      resolve(dialog.returnValue === "yes");
    };
    dialog.returnValue = "";
    dialog.showModal();
  });
}

function cancel(server, row) {
  ask({
    title: "Cancel this transfer?",
    text: `${row.peer} is told that the operator has cancelled ${row.file}.`,
    yes: "Cancel the transfer",
    act: () => send({ server: server.place, command: "cancel", transfer: row.transfer }),
  });
}

function drainOrResume(server) {
  const serving = server.state.state === "serving";
  ask({
    title: serving ? "Drain this server?" : "Serve again?",
    text: serving
      ? `${server.label} refuses new requests from now on. Transfers that run go on to their end.`
      : `${server.label} takes new requests again.`,
    yes: serving ? "Drain" : "Resume",
    no: "Leave it",
    calm: !serving,
    act: () => send({ server: server.place, command: serving ? "drain" : "resume" }),
  });
}

async function askToLook(message) {
  document.body.classList.add("away");
  $("link-text").textContent = "Waiting for the token";
  const had = token !== null;
  remember(null);
  await ask({
    title: "Token",
    text: had ? sentence(message) : "Whoever wants to look at this page needs the token.",
    yes: "Look",
    no: "Try again",
    calm: true,
    act: check,
  });
}

$("key").onclick = () => {
  if (token !== null) {
    remember(null);
    return;
  }
  ask({
    title: "Unlock",
    text: "With the token you can cancel transfers, and drain servers.",
    yes: "Unlock",
    no: "Not now",
    calm: true,
    act: check,
  });
};

// ---- drawing -------------------------------------------------------------------------------

let due = false;
let chosen = null;  // the place of the server that is shown alone
const shown = () => [...servers.values()].filter((server) => chosen === null || server.place === chosen);

function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    drawServers();
    drawChart();
    drawTotals();
    drawTransfers();
    drawFailures();
    drawDetails();
  });
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

// Have `parent` hold a child for each row, in their order, and keep those that were there: what
// has the keyboard's focus, or is being read out, is not made anew.
function sync(parent, rows, key, make, update) {
  const had = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const row of rows) {
    const name = key(row);
    let node = had.get(name);
    if (node) {
      had.delete(name);
    } else {
      node = make(row);
      node.dataset.key = name;
    }
    node.row = row;
    update(node, row);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of had.values()) node.remove();
}

const STATES = { serving: "serving", draining: "draining: new requests are refused", stopping: "stopping" };

function drawServers() {
  if (!servers.has(chosen)) chosen = null;
  const many = servers.size > 1;
  const total = [...servers.values()].reduce((sum, server) => sum + server.running, 0);
  const rows = [...servers.values()];
  sync($("servers"), many ? [null, ...rows] : rows, (server) => server?.place ?? "", (server) => {
    const node = element("li");
    const name = element("button", "name");
    name.type = "button";
    name.onclick = () => {
      chosen = node.row?.place ?? null;
      draw();
    };
    if (server) node.append(element("span", "dot"));
    node.append(name, element("span", "what"));
    if (server) {
      const order = element("button", "order");
      order.type = "button";
      order.onclick = () => drainOrResume(node.row);
      node.append(order);
    }
    return node;
  }, (node, server) => {
    const [name, what, order] = ["name", "what", "order"].map((part) => node.querySelector(`.${part}`));
    node.classList.toggle("chosen", many && (server?.place ?? null) === chosen);
    name.disabled = !many;
    attribute(name, "aria-pressed", many ? (server?.place ?? null) === chosen : null);
    if (!server) {
      set(name, "All servers");
      set(what, `${whole(total)} running`);
      return;
    }
    const { connected, state } = server.state;
    for (const word of ["draining", "stopping"]) node.classList.toggle(word, connected && state === word);
    node.classList.toggle("gone", !connected);
    set(name, server.label);
    set(what, connected
      ? `${STATES[state] ?? state}${many ? `, ${whole(server.running)} running` : ""}`
      : `out of reach: ${server.state.reason}`);
    order.hidden = !acting || !connected || state === "stopping";
    set(order, state === "serving" ? "Drain …" : "Resume …");
    attribute(order, "aria-label", `${state === "serving" ? "Drain" : "Resume"} ${server.label}`);
  });
  $("key").hidden = !acting;
  set($("key"), token === null ? "Unlock" : "Lock");
  const only = rows.length === 1 ? rows[0] : null;
  const parts = [];
  if (only?.about.engine) parts.push(`engine ${only.about.engine}, process ${only.about.pid}, up ${seconds(only.now - only.about.started)}`);
  parts.push(acting
    ? "Acting needs the token; it is kept until this tab is closed."
    : "To cancel and drain from here, start the page with a token: tftp serve --monitor-token-file, or tftp dashboard --token-file.");
  set($("about"), parts.join(" · "));
}

function sides() {
  const all = shown().filter((server) => server.totals).flatMap((server) => Object.values(server.totals));
  const sum = (part) => all.reduce((total, side) => total + part(side), 0);
  return { all, sum };
}

const rates = { read: 0, write: 0 };

function drawTotals() {
  const { all, sum } = sides();
  const running = shown().reduce((total, server) => total + server.running, 0);
  const outcomes = (wanted) => sum((side) => Object.entries(side.outcomes)
    .reduce((total, [outcome, number]) => total + (SUCCESSES.includes(outcome) === wanted ? number : 0), 0));
  const known = all.length > 0;
  const text = (id, words) => set($(id), known ? words : "–");
  const payload = (way) => shown().reduce((total, server) => total + (server.totals?.[way].payload ?? 0), 0);
  text("total-running", whole(running));
  text("total-read", rate(rates.read));
  text("total-write", rate(rates.write));
  set($("total-read-all"), known ? `${octets(payload("read"))} in all` : "");
  set($("total-write-all"), known ? `${octets(payload("write"))} in all` : "");
  const failed = outcomes(false), refused = sum((side) => side.refused);
  text("total-done", whole(outcomes(true)));
  set($("total-requests"), known ? `of ${plural(sum((side) => side.requests), "request")}` : "");
  text("total-failed", whole(failed));
  $("total-failed").parentElement.classList.toggle("some", failed > 0);
  set($("total-refused"), known ? `and ${whole(refused)} refused` : "");
  const resent = sum((side) => side.retransmissions), sent = sum((side) => side.datagrams_sent);
  text("total-resent", whole(resent));
  set($("total-resent-share"), known ? `${sent ? (100 * resent / sent).toFixed(resent ? 2 : 0) : 0} % of packets sent` : "");
  document.title = known ? `${whole(running)} running, ${rate(rates.read + rates.write)} – tftp` : "tftp";
}

// ---- the chart -----------------------------------------------------------------------------

const SPAN = 300, HELD = 3;  // seconds
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

// Octets a second in each second of the span, all servers together; null where nothing is known.
function speeds() {
  const read = new Array(SPAN).fill(null), write = new Array(SPAN).fill(null);
  for (const server of shown()) {
    // Clocks of several servers differ, so each one counts from its own last word.
    const now = server.now, end = Math.ceil(now);
    const add = (second, readSpeed, writeSpeed) => {
      const slot = SPAN - 1 - (end - second);
      if (slot < 0 || slot >= SPAN) return;
      read[slot] = (read[slot] ?? 0) + readSpeed;
      write[slot] = (write[slot] ?? 0) + writeSpeed;
    };
    for (let place = 1; place < server.samples.length; place += 1) {
      const [from, readBefore, writeBefore] = server.samples[place - 1];
      const [to, readNow, writeNow] = server.samples[place];
      // A pause means that nobody listened: what went on meanwhile is not the rate of one moment.
      if (to <= from || to - from > 5 || readNow < readBefore || writeNow < writeBefore) continue;
      // Servers tell their numbers at different moments. Until the next ones come, the last ones
      // hold: the sum would otherwise lack whoever speaks later in the second.
      const holds = place === server.samples.length - 1 && now - to <= HELD;
      const last = holds ? end : Math.floor(to);
      for (let second = Math.floor(from) + 1; second <= last; second += 1) {
        add(second, (readNow - readBefore) / (to - from), (writeNow - writeBefore) / (to - from));
      }
    }
  }
  return { read, write };
}

function lastKnown(series) {
  for (let slot = SPAN - 1; slot > SPAN - 6; slot -= 1) {
    if (series[slot] !== null) return series[slot];
  }
  return 0;
}

// The end of the scale: 1, 2 or 5 times a power of ten.
function ceiling(amount) {
  const power = 10 ** Math.floor(Math.log10(Math.max(amount, 1000)));
  return [1, 2, 5, 10].map((times) => times * power).find((end) => end >= amount);
}

function paths(series, x, y, floor) {
  let line = "", area = "", start = null;
  series.forEach((speed, slot) => {
    if (speed === null) {
      if (start !== null) area += `L${x(slot - 1)} ${floor}Z`;
      start = null;
      return;
    }
    const point = `${x(slot)} ${y(speed).toFixed(1)}`;
    line += `${start === null ? "M" : "L"}${point}`;
    area += start === null ? `M${x(slot)} ${floor}L${point}` : `L${point}`;
    start ??= slot;
  });
  if (start !== null) area += `L${x(SPAN - 1)} ${floor}Z`;
  return { line, area };
}

function drawChart() {
  const chart = $("chart"), { width, height } = chart.getBoundingClientRect();
  const { read, write } = speeds();
  rates.read = lastKnown(read);
  rates.write = lastKnown(write);
  const peak = Math.max(0, ...read, ...write);
  set($("chart-read"), rate(rates.read));
  set($("chart-write"), rate(rates.write));
  set($("chart-peak"), rate(peak));
  attribute(chart, "aria-label", `Throughput of the last five minutes. Now ${rate(rates.read)} sent to clients and `
    + `${rate(rates.write)} taken from them; at most ${rate(peak)}.`);
  const left = 72, top = 8, right = width - 4, floor = height - 22, end = ceiling(peak);
  const x = (slot) => (left + (right - left) * (slot / (SPAN - 1))).toFixed(1);
  const y = (speed) => floor - (floor - top) * (speed / end);
  const nodes = [];
  for (const part of [0, 0.5, 1]) {
    const line = y(part * end);
    nodes.push(svg("line", { class: "grid", x1: left, x2: right, y1: line, y2: line }));
    nodes.push(svg("text", { x: left - 8, y: line + 4, "text-anchor": "end" }, rate(part * end).replace(".0 ", " ")));
  }
  const step = width < 500 ? 2 : 1;
  for (let minutes = step === 2 ? 4 : 5; minutes >= 0; minutes -= step) {
    const at = right - (right - left) * (minutes / 5);
    const anchor = minutes === 0 ? "end" : minutes === 5 ? "start" : "middle";
    nodes.push(svg("text", { x: at, y: height - 5, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
  }
  const sent = paths(read, x, y, floor), taken = paths(write, x, y, floor);
  nodes.push(svg("path", { class: "area", d: sent.area }));
  nodes.push(svg("path", { class: "read", d: sent.line }));
  nodes.push(svg("path", { class: "write", d: taken.line }));
  chart.setAttribute("viewBox", `0 0 ${Math.max(width, 1)} ${Math.max(height, 1)}`);
  chart.replaceChildren(...nodes);
}

new ResizeObserver(draw).observe($("chart"));

// ---- tables --------------------------------------------------------------------------------

// A table that is sorted by its heads. A column has a title, the class of its cells, a function
// `fill(cell, row)`, and `by(row)`, what it is sorted by, if it can be.
class Table {
  constructor(id, columns, { sort = null, descending = false, key, rowClass = () => "", chooser = null }) {
    this.body = document.querySelector(`#${id} tbody`);
    this.columns = columns;
    this.key = key;
    this.rowClass = rowClass;
    this.sort = columns.find((column) => column.name === sort) ?? null;
    this.descending = descending;
    this.chooser = chooser;
    const row = element("tr");
    row.setAttribute("role", "row");
    for (const column of columns) row.append(this.head(column));
    document.querySelector(`#${id} thead`).append(row);
    this.offer();
    this.mark();
  }

  head(column) {
    const head = element("th", column.className?.includes("number") ? "number" : "");
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    if (column.by) {
      const button = element("button", "", column.title);
      button.type = "button";
      button.onclick = () => this.choose(column);
      head.append(button);
    } else {
      head.append(element("span", column.title ? "" : "unseen", column.title || column.name));
    }
    column.head = head;
    return head;
  }

  offer() {
    if (!this.chooser) return;
    for (const column of this.columns.filter((one) => one.by)) {
      const option = element("option", "", column.title);
      option.value = column.name;
      this.chooser.append(option);
    }
    this.chooser.onchange = () => {
      this.choose(this.columns.find((column) => column.name === this.chooser.value));
    };
  }

  choose(column) {
    this.descending = this.sort === column ? !this.descending : Boolean(column.large);
    this.sort = column;
    this.mark();
    draw();
  }

  mark() {
    for (const column of this.columns) {
      attribute(column.head, "aria-sort", column === this.sort ? (this.descending ? "descending" : "ascending") : null);
    }
    if (this.chooser) this.chooser.value = this.sort.name;
  }

  hide(name, hidden) {
    const column = this.columns.find((one) => one.name === name);
    column.hidden = hidden;
    column.head.hidden = hidden;
  }

  draw(rows) {
    if (this.sort) {
      const { by } = this.sort, sign = this.descending ? -1 : 1;
      const compare = (one, other) => (one === other ? 0 : one < other ? -1 : 1);
      rows = rows.map((row) => [by(row), row]).sort(([one], [other]) => sign * compare(one, other)).map(([, row]) => row);
    }
    sync(this.body, rows, this.key, () => this.make(), (node, row) => {
      const name = this.rowClass(row);
      if (node.className !== name) node.className = name;
      this.columns.forEach((column, place) => {
        const cell = node.children[place];
        cell.hidden = Boolean(column.hidden);
        column.fill(cell, row);
      });
    });
  }

  make() {
    const node = element("tr");
    node.setAttribute("role", "row");
    for (const column of this.columns) {
      const cell = element("td", column.className ?? "");
      cell.setAttribute("role", "cell");
      if (column.label) cell.dataset.label = column.label;
      node.append(cell);
    }
    return node;
  }
}

const text = (make) => (cell, row) => set(cell, make(row));
const short = (server) => server.about.host && servers.size > 1
  ? `${server.about.host} ${(server.about.addresses ?? [])[0] ?? ""}` : server.place;
const wayOf = (row) => (row.operation === "read" ? "get" : "put");

// Two lines in one cell: what matters, and below it what goes with it.
const twoLines = (main, below) => (cell, row) => {
  if (!cell.firstChild) cell.append(element("span", "main"), element("span", "below"));
  set(cell.firstChild, main(row));
  set(cell.lastChild, below(row));
};

const optionsOf = ({ granted: { blksize, windowsize } }) =>
  `blocks of ${blksize ?? 512}${windowsize ? ` × ${windowsize}` : ""}`;

const fileLines = twoLines((row) => row.file, (row) => [
  `${row.operation === "read" ? "↓" : "↑"} ${wayOf(row)}`, ...(row.granted ? [optionsOf(row)] : []),
].join(", "));
const fileCell = (cell, row) => {
  fileLines(cell, row);
  titled(cell.firstChild, row.file);
};

// What is cut where it is long can be had whole.
const titled = (node, name) => attribute(node, "title", name.length > 40 ? name : null);
const reasonCell = (cell, row) => {
  if (!cell.firstChild) cell.append(element("span", "main"));
  set(cell.firstChild, reason(row));
  titled(cell.firstChild, reason(row));
};
const clientCell = twoLines((row) => row.peer, (row) => (servers.size > 1 ? `at ${short(row.server)}` : ""));

function fillProgress(cell, row) {
  if (!cell.firstChild) cell.append(element("progress"), element("span"));
  const [bar, words] = cell.children;
  const known = row.size !== null && row.size > 0;
  attribute(bar, "max", known ? row.size : 1);
  attribute(bar, "value", known ? Math.min(row.payload, row.size) : 0);
  attribute(bar, "aria-label", `${row.file} for ${row.peer}`);
  let said = octets(row.payload);
  if (row.state === "opening") {
    said = "opening";
  } else if (known) {
    said = `${Math.floor(100 * Math.min(row.payload / row.size, 1))} % of ${octets(row.size)}`;
    if (row.rate > 0 && row.payload < row.size) said += `, ${about((row.size - row.payload) / row.rate)} left`;
  }
  set(words, said);
}

function fillCancel(cell, row) {
  if (!cell.firstChild) {
    const button = element("button", "danger", "Cancel");
    button.type = "button";
    button.onclick = () => {
      const now = cell.parentElement.row;
      cancel(now.server, now);
    };
    cell.append(button);
  }
  attribute(cell.firstChild, "aria-label", `Cancel ${row.file} for ${row.peer}`);
}

const transfers = new Table("transfers", [
  { name: "file", title: "File", className: "file", by: (row) => row.file, fill: fileCell },
  { name: "client", title: "Client", className: "host", by: (row) => row.peer, fill: clientCell },
  { name: "progress", title: "Progress", className: "progress", large: true, by: (row) => (row.size ? row.payload / row.size : 0), fill: fillProgress },
  { name: "rate", title: "Rate", className: "number", large: true, by: (row) => row.rate, fill: text((row) => rate(row.rate)) },
  { name: "trip", title: "Round trip", label: "round trip", className: "number faint", large: true, by: (row) => row.round_trip ?? -1, fill: text((row) => roundTrip(row.round_trip)) },
  { name: "resent", title: "Resent", label: "resent", className: "number", large: true, by: (row) => row.resent, fill: (cell, row) => {
    cell.classList.toggle("some", row.resent > 0);
    set(cell, whole(row.resent));
  } },
  { name: "age", title: "Runs", label: "runs", className: "number faint", large: true, by: (row) => -row.began, fill: text((row) => about(row.server.now - row.began)) },
  { name: "act", title: "", className: "act", fill: fillCancel },
], {
  sort: "age",
  descending: true,
  key: (row) => `${row.server.place} ${row.transfer}`,
  rowClass: wayOf,
  chooser: $("sort"),
});

const wanted = () => $("filter").value.trim().toLowerCase();
const fits = (...words) => {
  const filter = wanted();
  return !filter || words.some((word) => word.toLowerCase().includes(filter));
};

$("filter").oninput = draw;

function drawTransfers() {
  const all = shown().flatMap((server) => [...server.transfers.values()].map((row) => Object.assign(row, { server })));
  const rows = all.filter((row) => fits(row.file, row.peer));
  const running = shown().reduce((total, server) => total + server.running, 0);
  transfers.hide("act", !acting);
  transfers.draw(rows);
  set($("running-count"), running ? whole(running) : "");
  $("transfers").hidden = rows.length === 0;
  $("running-empty").hidden = rows.length > 0;
  $("running-note").hidden = running <= all.length;
  set($("running-note"), `The ${whole(all.length)} oldest are shown.`);
  if (!rows.length) explainEmpty(all.length > 0);
}

function explainEmpty(filtered) {
  const reachable = shown().filter((server) => server.state.connected);
  let title = "No transfer is running", advice = "To see one here, fetch a file:", command = "";
  if (filtered) {
    [title, advice] = ["No running transfer fits the filter", "Clear the filter to see all of them."];
  } else if (!servers.size) {
    [title, advice] = ["Waiting for the page’s server", ""];
  } else if (!reachable.length) {
    title = "No server can be reached";
    advice = "The page tries again by itself. Is it running, with its monitor here?";
    command = shown().map((server) => `tftp serve --monitor ${server.place}`).join("\n");
  } else {
    command = `tftp get ${urlToTry(reachable[0])}`;
  }
  set($("running-empty-title"), title);
  set($("running-empty-advice"), advice);
  set($("running-empty-command"), command);
}

function urlToTry(server) {
  const [address] = server.about.addresses ?? [];
  if (!address) return "tftp://HOST/FILE";
  const port = address.slice(address.lastIndexOf(":") + 1);
  let host = address.slice(0, address.lastIndexOf(":"));
  if (host === "0.0.0.0" || host === "[::]") host = server.about.host;
  return `tftp://${host}${port === "69" ? "" : `:${port}`}/${server.files.find((row) => row.succeeded)?.file ?? "FILE"}`;
}

function drawFailures() {
  const rows = shown().flatMap((server) => server.failures.map((row) => Object.assign(row, { server })))
    .filter((row) => fits(row.file, row.peer, reason(row)))
    .sort((one, other) => other.time - one.time).slice(0, 100);
  sync($("failures"), rows, (row) => `${row.server.place} ${row.transfer}`, (row) => {
    const node = element("li");
    const why = element("p", "why"), where = element("p", "where");
    where.append(element("span", "", `${wayOf(row)} by ${row.peer}`));
    if (servers.size > 1) where.append(element("span", "", `at ${short(row.server)}`));
    const time = element("time");
    time.dateTime = new Date(row.time * 1000).toISOString();
    time.title = new Date(row.time * 1000).toLocaleString();
    const said = element("strong", "", reason(row));
    titled(said, reason(row));
    why.append(said, time);
    const name = element("span", "file", row.file);
    titled(name, row.file);
    node.append(why, name, where);
    return node;
  }, (node, row) => set(node.querySelector("time"), ago(row.server.now - row.time)));
  $("failures-empty").hidden = rows.length > 0;
}

// ---- the tables below ----------------------------------------------------------------------

// Rows of several servers that have the same name are one row.
function merged(part, name) {
  const rows = new Map();
  for (const server of shown()) {
    for (const row of server[part]) {
      const age = server.now - row.last;
      const had = rows.get(name(row));
      if (!had) {
        rows.set(name(row), { ...row, age });
        continue;
      }
      for (const [key, value] of Object.entries(row)) {
        if (typeof value === "number" && key !== "code") had[key] += value;
      }
      had.age = Math.min(had.age, age);
    }
  }
  return [...rows.values()];
}

const number = (name, title, extra = {}) => ({
  name, title, label: title.toLowerCase(), className: "number", large: true,
  by: (row) => row[name], fill: text((row) => whole(row[name])), ...extra,
});
const fails = (name, title) => number(name, title, {
  fill: (cell, row) => {
    cell.classList.toggle("fails", row[name] > 0);
    set(cell, whole(row[name]));
  },
});
const account = [
  number("requests", "Requests"),
  number("succeeded", "Succeeded"),
  fails("failed", "Failed"),
  fails("refused", "Refused"),
  number("payload", "Octets", { fill: text((row) => octets(row.payload)) }),
  number("retransmissions", "Resent"),
];
const last = {
  name: "last", title: "Last", label: "last", className: "number faint", by: (row) => row.age, fill: text((row) => ago(row.age)),
};

const clients = new Table("clients", [
  { name: "client", title: "Client", className: "file", by: (row) => row.client, fill: text((row) => row.client) },
  number("running", "Running"),
  number("speed", "Rate now", { fill: text((row) => (row.speed ? rate(row.speed) : "")) }),
  ...account, last,
], { sort: "requests", descending: true, key: (row) => row.client });

const files = new Table("files", [
  { name: "file", title: "File", className: "file", by: (row) => row.file, fill: text((row) => row.file) },
  ...account.map((column) => ({ ...column })), { ...last },
], { sort: "requests", descending: true, key: (row) => row.file });

const endings = new Table("endings", [
  { name: "file", title: "File", className: "file", fill: fileCell },
  { name: "client", title: "Client", className: "host", fill: clientCell },
  { name: "outcome", title: "Outcome", className: "labelled", fill: (cell, row) => {
    cell.classList.toggle("fails", !SUCCESSES.includes(row.outcome));
    reasonCell(cell, row);
  } },
  { name: "size", title: "Octets", className: "number", fill: text((row) => octets(row.payload ?? 0)) },
  { name: "duration", title: "Took", label: "in", className: "number", fill: text((row) => seconds(row.duration ?? 0)) },
  { name: "rate", title: "Rate", className: "number", fill: text((row) => (row.duration ? rate(row.payload / row.duration) : "")) },
  { name: "when", title: "When", className: "number faint", fill: text((row) => ago(row.server.now - row.time)) },
], { key: (row) => `${row.server.place} ${row.transfer}` });

const errors = new Table("errors", [
  { name: "reason", title: "Reason", className: "file", by: (row) => reason(row), fill: reasonCell },
  { name: "code", title: "Error code", label: "error code", className: "number", by: (row) => row.code, fill: text((row) => String(row.code)) },
  number("requests", "How often"),
  { ...last },
], { sort: "requests", descending: true, key: (row) => `${row.outcome} ${row.code} ${row.message}` });

const details = {
  clients() {
    const busy = new Map();
    for (const server of shown()) {
      for (const row of server.transfers.values()) {
        const client = hostOf(row.peer), had = busy.get(client) ?? { running: 0, speed: 0 };
        busy.set(client, { running: had.running + 1, speed: had.speed + row.rate });
      }
    }
    const rows = merged("clients", (row) => row.client);
    for (const row of rows) Object.assign(row, busy.get(row.client) ?? { running: 0, speed: 0 });
    // Requests are counted when they have ended: who came for the first time has no row yet.
    for (const [client, now] of busy) {
      if (rows.some((row) => row.client === client)) continue;
      rows.push({ client, ...now, requests: 0, succeeded: 0, failed: 0, refused: 0, payload: 0, retransmissions: 0, age: 0 });
    }
    return [clients, rows.filter((row) => fits(row.client))];
  },
  files: () => [files, merged("files", (row) => row.file).filter((row) => fits(row.file))],
  endings() {
    const rows = shown().flatMap((server) => server.endings.map((row) => Object.assign(row, { server })))
      .filter((row) => fits(row.file, row.peer)).sort((one, other) => other.time - one.time).slice(0, 50);
    return [endings, rows];
  },
  errors: () => [errors, merged("errors", (row) => `${row.outcome} ${row.code} ${row.message}`)],
};

let tab = "clients";

function drawDetails() {
  const [table, rows] = details[tab]();
  table.draw(rows);
  const panel = $(`panel-${tab}`);
  panel.querySelector("table").hidden = rows.length === 0;
  panel.querySelector(".empty").hidden = rows.length > 0;
}

const tabs = [...document.querySelectorAll("[role=tab]")];

function open(button) {
  tab = button.id.slice(4);
  for (const one of tabs) {
    one.setAttribute("aria-selected", one === button);
    one.tabIndex = one === button ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = one !== button;
  }
  draw();
}

tabs.forEach((button, place) => {
  button.onclick = () => open(button);
  button.onkeydown = (event) => {
    const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = tabs[(moves[event.key] + tabs.length) % tabs.length];
    next.focus();
    open(next);
  };
});

// Ages grow even while nothing else happens.
setInterval(draw, 1000);

draw();
follow();
