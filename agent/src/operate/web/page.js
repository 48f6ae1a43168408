// Draws what it is told. Everything from outside is put in as text, never as markup.
"use strict";

const KEPT = 600;
const token = location.hash.slice(1);
// It is in this page's memory from here on, not in its address.
history.replaceState(null, "", location.pathname);
const histories = new Map();
const $ = (id) => document.getElementById(id);

function make(name, text, kind) {
  const one = document.createElement(name);
  if (text !== undefined) one.textContent = text;
  if (kind) one.className = kind;
  return one;
}

function many(count, one) {
  return count + " " + one + (count === 1 ? "" : "s");
}

function tell(text, good) {
  $("told").textContent = text;
  $("told").className = good ? "good" : "bad";
}

async function act(button, path, what) {
  button.disabled = true;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { authorization: "Bearer " + token, "content-type": "application/json" },
      body: JSON.stringify(what),
    });
    tell(await answer.text(), answer.ok);
  } catch (error) {
    tell("it was not done: " + error, false);
  }
  button.disabled = false;
}

function button(words, path, what, question) {
  const one = make("button", words);
  one.addEventListener("click", () => {
    if (!question || confirm(question)) act(one, path, what);
  });
  return one;
}

const NS = "http://www.w3.org/2000/svg";

function svg(parent, name, attributes, text) {
  const one = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (text !== undefined) one.textContent = text;
  parent.append(one);
  return one;
}

// Packets over time, against their cap.
function plot(session) {
  const points = histories.get(session.id) ?? [];
  const image = document.createElementNS(NS, "svg");
  image.setAttribute("viewBox", "0 0 340 110");
  image.setAttribute("class", "plot");
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", "packets over time");
  const cap = session.packets.cap;
  const top = Math.max(cap ?? 0, session.packets.seen, 1) * 1.05;
  const last = Math.max(session.age_ms, 1);
  const x = (age) => 5 + 330 * age / last;
  const y = (packets) => 105 - 95 * packets / top;
  if (cap !== undefined) {
    svg(image, "line", { class: "cap", x1: 5, x2: 335, y1: y(cap), y2: y(cap) });
    svg(image, "text", { x: 5, y: y(cap) - 3 }, "cap " + cap);
  }
  const line = [[0, 0], ...points].map(([age, packets]) => x(age) + "," + y(packets));
  svg(image, "polyline", { class: "seen", points: line.join(" ") });
  return image;
}

// Packets by protocol: a bar for each of the most.
function protocols(counted) {
  const all = Object.entries(counted.packets).sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
  const shown = all.slice(0, 8);
  const rest = all.slice(8).reduce((sum, [, packets]) => sum + packets, 0);
  if (rest) shown.push(["others", rest]);
  const most = Math.max(...shown.map(([, packets]) => packets), 1);
  const one = make("div", undefined, "protocols");
  for (const [name, packets] of shown) {
    const row = make("div");
    row.dataset.protocol = name;
    const image = document.createElementNS(NS, "svg");
    image.setAttribute("viewBox", "0 0 100 10");
    image.setAttribute("preserveAspectRatio", "none");
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", packets + " packets of " + name);
    svg(image, "rect", { width: 100 * packets / most, height: 10 });
    row.append(make("span", name), image, make("span", String(packets), "number"));
    one.append(row);
  }
  if (counted.tagged) one.append(make("p", counted.tagged + " of them with a VLAN tag"));
  return one;
}

function seconds(ms) {
  const all = Math.ceil(ms / 1000);
  return all < 60 ? all + " s left" : Math.floor(all / 60) + " min " + (all % 60) + " s left";
}

function count(one, what) {
  return one.cap === undefined ? one.seen + " " + what : one.seen + " of " + one.cap + " " + what;
}

function card(session) {
  const short = session.agent.slice(0, 8) + "/" + session.session;
  const one = make("article", undefined, "card");
  one.dataset.session = short;
  const head = make("header");
  head.append(make("b", short), make("span", session.standing, session.standing));
  head.append(make("span", session.left_ms === undefined ? "no deadline" : seconds(session.left_ms), "left"));
  head.append(button("Stop", "stop", { session: session.id }, "Stop " + short + "?"));
  one.append(head, plot(session));
  const who = session.who ? session.who.tool + " of " + session.who.principal + " at " : "";
  one.append(make("p", who + session.server), make("p", session.granted));
  if (session.asked !== undefined) one.append(make("p", "asked for: " + session.asked));
  if (session.cut !== undefined) one.append(make("p", session.cut));
  one.append(make("p", count(session.packets, "packets") + ", " + count(session.bytes, "bytes"), "counts"));
  one.append(make("p", "opened " + session.started + " by " + session.by, "by"));
  if (session.protocols) one.append(protocols(session.protocols));
  return one;
}

function request(waiting) {
  const one = make("article", undefined, "card");
  one.dataset.request = waiting.id;
  const head = make("header");
  head.append(make("b", waiting.id), make("span", waiting.tool + " of " + waiting.caller));
  head.append(make("span", waiting.left + " s left", "left"));
  head.append(button("Approve", "approve", { id: waiting.id }), button("Deny", "deny", { id: waiting.id }));
  one.append(head, make("p", waiting.arguments));
  if (waiting.effect) one.append(make("p", "comes to " + waiting.effect));
  return one;
}

function fill(place, all, none) {
  $(place).replaceChildren(...(all.length ? all : [make("p", none, "none")]));
}

function draw(news) {
  const there = new Set(news.sessions.map((session) => session.id));
  for (const id of histories.keys()) if (!there.has(id)) histories.delete(id);
  for (const session of news.sessions) {
    const points = histories.get(session.id) ?? [];
    points.push([session.age_ms, session.packets.seen]);
    if (points.length > KEPT) points.splice(1, 1);
    histories.set(session.id, points);
  }
  const all = [[news.sessions.length, "session"], [news.servers, "server"], [news.agents, "agent"]];
  $("counts").textContent = all.map(([count, one]) => many(count, one)).join(", ");
  // Not under somebody's finger.
  if (!document.querySelector("button:active")) {
    fill("sessions", news.sessions.map(card), "no session is open");
    fill("waiting", news.waiting.map(request), news.unread ?? "no call waits");
  }
  $("denials").replaceChildren(...news.denials.map((event) => {
    const one = make("li");
    one.append(make("code", event.at.slice(11, 19)), " " + event.server + ": " + event.text);
    return one;
  }));
}

async function follow() {
  const answer = await fetch("news", { headers: { authorization: "Bearer " + token } });
  if (!answer.ok) throw new Error(await answer.text());
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("capwarden has ended");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) draw(JSON.parse(event.slice(6)));
  }
}

async function run() {
  for (;;) {
    try {
      await follow();
    } catch (error) {
      tell(String(error.message ?? error), false);
    }
    await new Promise((again) => setTimeout(again, 2000));
  }
}

run();
