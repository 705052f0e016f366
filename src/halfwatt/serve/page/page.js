"use strict";
// One question to every model that the server has, one after the other; what each took, and what that saves.

const at = (id) => document.getElementById(id);
const state = { language: "en", models: [], talks: new Map(), totals: new Map(), both: 0, stopping: null };

function words(key, values = {}) {
  return WORDS[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function figure(value) {
  return new Intl.NumberFormat(state.language, { maximumSignificantDigits: 3 }).format(value);
}

function speak(language) {
  state.language = language in WORDS ? language : "en";
  localStorage.setItem("language", state.language);
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  for (const part of document.querySelectorAll("[data-words]")) part.textContent = words(part.dataset.words);
  for (const part of document.querySelectorAll("[data-label]")) part.ariaLabel = words(part.dataset.label);
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === state.language));
  }
  if (state.models.length === 1) document.querySelector("[data-words=lead]").textContent = words("alone");
  for (const model of state.models) {
    const section = columnOf(model);
    section.querySelector("h2").textContent = words(model.role);
    section.querySelector("ol").ariaLabel = words("talk", { name: words(model.role) });
    for (const item of section.querySelectorAll("li[data-cost]")) {
      item.querySelector("small").textContent = costLine(JSON.parse(item.dataset.cost));
    }
    for (const item of section.querySelectorAll("li.user")) item.ariaLabel = words("you");
  }
  showTotals();
}

function columnOf(model) {
  return at("columns").children[state.models.indexOf(model)];
}

function startAnew() {
  state.both = 0;
  for (const model of state.models) {
    state.talks.set(model.id, []);
    state.totals.set(model.id, { replies: 0, joules: 0, cpu: 0 });
    columnOf(model).querySelector("ol").replaceChildren();
  }
  complain("");
  showTotals();
}

function complain(text) {
  at("fault").textContent = text;
  at("fault").hidden = !text;
}

// --- what it took ---

function costLine(cost) {
  const parts = [];
  if (cost.energy) {
    parts.push(words("energy", { joules: figure(cost.energy.joules) }), words("cpu", { ms: figure(1000 * cost.energy.cpu_seconds) }));
  }
  parts.push(words("seconds", { seconds: figure(cost.seconds) }), words("tokens", { tokens: cost.tokens }));
  if (cost.cached) parts.push(words("cached", { cached: cost.cached }));
  if (cost.reason === "length") parts.push(words("cut"));
  if (cost.reason === "stopped") parts.push(words("stopped"));
  return parts.join(" · ");
}

function showTotals() {
  const [first, second] = state.models.map((model) => state.totals.get(model.id));
  const grade = first?.grade;
  at("grade").textContent = !first?.replies ? "" : grade ? words("by_joules", { grade: words(grade) }) : words("by_cpu");
  if (!first?.replies || (second && !state.both)) {
    at("saved").textContent = words("nothing");
  } else if (!second) {
    const cost = grade ? words("energy", { joules: figure(first.joules) }) : words("cpu", { ms: figure(1000 * first.cpu) });
    at("saved").textContent = words("alone_total", { replies: first.replies, cost });
  } else {
    const [own, other] = grade ? [first.joules, second.joules] : [first.cpu, second.cpu];
    const share = new Intl.NumberFormat(state.language, { style: "percent", maximumFractionDigits: 1 }).format(1 - own / other);
    const times = own < other ? other / own : own / other;
    const shown = state.language === "zh" ? figure(times) : figure(times) + "x";
    at("saved").textContent = words(own < other ? "saved" : "dearer", { replies: state.both, share, times: shown });
  }
}

function count(model, cost) {
  const total = state.totals.get(model.id);
  total.replies += 1;
  total.cpu += cost.energy?.cpu_seconds ?? 0;
  total.joules += cost.energy?.joules ?? 0;
  total.grade = cost.energy?.grade;
}

// --- asking ---

async function* events(response) {
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function answer(model, signal) {
  const talk = state.talks.get(model.id);
  const log = columnOf(model).querySelector("ol");
  const item = log.appendChild(document.createElement("li"));
  const said = item.appendChild(document.createElement("span"));
  const small = item.appendChild(document.createElement("small"));
  const cost = { seconds: 0, tokens: 0, cached: 0, energy: null, reason: "stopped" };
  const began = performance.now();
  try {
    const body = { model: model.id, messages: talk, stream: true, stream_options: { include_usage: true } };
    const response = await fetch("/v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (choice?.delta.content) said.append(choice.delta.content);
      if (choice?.finish_reason) cost.reason = choice.finish_reason;
      if (event.usage) {
        cost.tokens = event.usage.completion_tokens;
        cost.cached = event.usage.prompt_tokens_details.cached_tokens;
        cost.energy = event.usage.energy ?? null;
      }
      log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      item.remove();
      throw error instanceof TypeError ? new Error(words("lost")) : error;
    }
  }
  cost.seconds = (performance.now() - began) / 1000;
  item.dataset.cost = JSON.stringify(cost);
  small.textContent = costLine(cost);
  log.scrollTop = log.scrollHeight;
  talk.push({ role: "assistant", content: said.textContent });
  return cost;
}

async function ask(text) {
  const stopping = (state.stopping = new AbortController());
  working(true);
  complain("");
  for (const model of state.models) {
    state.talks.get(model.id).push({ role: "user", content: text });
    const item = columnOf(model).querySelector("ol").appendChild(document.createElement("li"));
    item.className = "user";
    item.ariaLabel = words("you");
    item.textContent = text;
  }
  const costs = [];
  try {
    for (const model of state.models) costs.push(await answer(model, stopping.signal));
    if (costs.every((cost) => cost.reason !== "stopped")) {
      costs.forEach((cost, place) => count(state.models[place], cost));
      state.both += 1;
    }
  } catch (error) {
    complain(error.message);
    state.models.slice(costs.length).forEach((model) => state.talks.get(model.id).pop());
    if (!costs.length) at("text").value = text;
  }
  working(false);
  showTotals();
  at("text").focus();
}

function working(busy) {
  at("send").disabled = at("new").disabled = busy;
  at("stop").hidden = !busy;
}

function save() {
  const talks = state.models.map((model) => state.talks.get(model.id)).filter((messages) => messages.length);
  const lines = talks.map((messages) => JSON.stringify({ messages }) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  link.download = "talk.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function start() {
  try {
    const listed = await (await fetch("/v1/models")).json();
    state.models = listed.data.map((entry) => ({ id: entry.id, role: entry.halfwatt.role }));
  } catch {
    complain(words("lost"));
  }
  for (const model of state.models) {
    const section = at("column").content.cloneNode(true);
    section.querySelector(".name").textContent = model.id;
    at("columns").append(section);
  }
  startAnew();
  speak(localStorage.getItem("language") ?? navigator.language.slice(0, 2));
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("text").value.trim();
    if (!text || at("send").disabled) return;
    at("text").value = "";
    ask(text);
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("ask").requestSubmit();
    }
  });
  at("stop").addEventListener("click", () => state.stopping?.abort());
  at("new").addEventListener("click", startAnew);
  at("export").addEventListener("click", save);
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => speak(button.dataset.language));
  }
  at("text").focus();
}

start();
