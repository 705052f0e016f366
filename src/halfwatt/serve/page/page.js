"use strict";
// One question to every model that the server has, one after the other; what each took, and what that saves.

const at = (id) => document.getElementById(id);
const state = { language: "en", models: [], talks: new Map(), totals: new Map(), asked: 0, stopping: null };

function remembered(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return null; // where storage is off
  }
}

function words(key, values = {}) {
  return WORDS[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function figure(value) {
  return new Intl.NumberFormat(state.language, { maximumSignificantDigits: 3 }).format(value);
}

function speak(language) {
  state.language = language in WORDS ? language : "en";
  remembered("language", state.language);
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
    section.querySelector("[role=log]").ariaLabel = words("talk", { name: words(model.role) });
    for (const item of section.querySelectorAll("li[data-cost]")) {
      item.querySelector("small").textContent = costLine(JSON.parse(item.dataset.cost));
    }
    for (const item of section.querySelectorAll("li")) {
      item.querySelector(".speaker").textContent = `${words(item.className.includes("user") ? "you" : model.role)}: `;
    }
  }
  showTotals();
}

function columnOf(model) {
  return at("columns").children[state.models.indexOf(model)];
}

function startAnew() {
  for (const model of state.models) {
    state.talks.set(model.id, []);
    columnOf(model).querySelector("ol").replaceChildren();
  }
  complain("");
}

function addItem(model, kind, text) {
  const item = columnOf(model).querySelector("ol").appendChild(document.createElement("li"));
  item.className = kind;
  const speaker = item.appendChild(document.createElement("span"));
  speaker.className = "speaker";
  speaker.textContent = `${words(kind === "user" ? "you" : model.role)}: `;
  const said = item.appendChild(document.createElement("span"));
  said.lang = ""; // whatever was typed, or answered
  said.textContent = text;
  showEnd(model);
  return item;
}

function showEnd(model, near = true) {
  const log = columnOf(model).querySelector("[role=log]");
  if (near) log.scrollTop = log.scrollHeight;
}

function readsTheEnd(model) {
  const log = columnOf(model).querySelector("[role=log]");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

function complain(text) {
  at("fault").textContent = text;
  at("fault").hidden = !text;
}

// --- what it took ---

function costLine(cost) {
  const parts = cost.by ? [words(`by_${cost.by}`)] : [];
  if (cost.energy?.joules !== undefined) parts.push(words("energy", { joules: figure(cost.energy.joules) }));
  if (cost.energy) parts.push(words("cpu", { ms: figure(1000 * cost.energy.cpu_seconds) }));
  parts.push(words("seconds", { seconds: figure(cost.seconds) }), words("tokens", { tokens: cost.tokens }));
  if (cost.cached) parts.push(words("cached", { cached: cost.cached }));
  if (cost.reason === "length") parts.push(words("cut"));
  return parts.join(" · ");
}

function showTotals() {
  const totals = state.models.map((model) => state.totals.get(model.id));
  const byJoules = totals.every((total) => total.joules !== null && total.grade !== "F");
  const spent = totals.map((total) => (byJoules ? total.joules : total.cpu));
  const inWords = (amount) => (byJoules ? words("energy", { joules: figure(amount) }) : words("cpu", { ms: figure(1000 * amount) }));
  at("grade").textContent = !state.asked ? "" : byJoules ? words("by_joules", { grade: words(totals[0].grade) }) : words("by_cpu");
  if (!state.asked || spent.some((amount) => !(amount > 0))) {
    at("saved").textContent = words("nothing");
  } else if (spent.length === 1) {
    at("saved").textContent = words("alone_total", { replies: state.asked, cost: inWords(spent[0]) });
  } else {
    const [own, other] = spent;
    const share = new Intl.NumberFormat(state.language, { style: "percent", maximumFractionDigits: 1 }).format(1 - own / other);
    const times = figure(own < other ? other / own : own / other);
    at("saved").textContent = words(own < other ? "saved" : "dearer", { replies: state.asked, share, times });
  }
}

function count(model, cost) {
  const total = state.totals.get(model.id);
  const joules = cost.energy?.joules;
  total.cpu += cost.energy?.cpu_seconds ?? 0;
  total.joules = joules === undefined || total.joules === null ? null : total.joules + joules;
  total.grade = cost.energy?.grade ?? "F";
}

// --- asking ---

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function post(body, signal) {
  let response;
  try {
    response = await fetch("v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(words("lost"));
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Error(said?.error?.message ?? `HTTP ${response.status}`);
}

async function answer(model, messages, signal) {
  const item = addItem(model, "reply", "");
  const said = item.lastElementChild;
  const small = item.appendChild(document.createElement("small"));
  const cost = { seconds: 0, tokens: 0, cached: 0, energy: null, reason: "", by: "" };
  const began = performance.now();
  const body = { model: model.id, messages, stream: true, stream_options: { include_usage: true } };
  for await (const event of events(await post(body, signal))) {
    if (event.error) throw new Error(event.error.message);
    const near = readsTheEnd(model);
    const choice = event.choices[0];
    if (choice?.delta.content) said.append(choice.delta.content);
    if (choice?.finish_reason) cost.reason = choice.finish_reason;
    if (event.usage) {
      cost.tokens = event.usage.completion_tokens;
      cost.cached = event.usage.prompt_tokens_details.cached_tokens;
      cost.energy = event.usage.energy ?? null;
      cost.by = event.usage.answered_by ?? "";
    }
    showEnd(model, near);
  }
  cost.seconds = (performance.now() - began) / 1000;
  item.dataset.cost = JSON.stringify(cost);
  small.textContent = costLine(cost);
  showEnd(model, true);
  return { cost, text: said.textContent };
}

// All models answer, or the question is nobody's: their talks stay the same on one side.
async function ask(text) {
  const stopping = (state.stopping = new AbortController());
  working(true);
  complain("");
  for (const model of state.models) addItem(model, "user", text);
  const question = { role: "user", content: text };
  const answers = [];
  try {
    for (const model of state.models) {
      answers.push(await answer(model, [...state.talks.get(model.id), question], stopping.signal));
    }
    answers.forEach(({ cost, text: said }, place) => {
      const model = state.models[place];
      state.talks.get(model.id).push(question, { role: "assistant", content: said });
      count(model, cost);
    });
    state.asked += 1;
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
    for (const model of state.models) strike(model);
    at("text").value ||= text;
  }
  working(false);
  showTotals();
  if (document.activeElement === document.body) at("text").focus();
}

function strike(model) {
  const items = [...columnOf(model).querySelectorAll("li")];
  const from = items.findLastIndex((item) => item.classList.contains("user"));
  for (const item of items.slice(from)) item.classList.add("failed");
}

function working(busy) {
  for (const id of ["send", "new"]) at(id).setAttribute("aria-disabled", String(busy));
  at("stop").hidden = !busy;
}

function isBusy() {
  return at("send").getAttribute("aria-disabled") === "true";
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
  let lost = false;
  try {
    const listed = await (await fetch("v1/models")).json();
    state.models = listed.data.map((entry) => ({ id: entry.id, role: entry.halfwatt.role }));
  } catch {
    lost = true;
  }
  for (const model of state.models) {
    const section = at("column").content.cloneNode(true);
    section.querySelector(".name").textContent = model.id;
    at("columns").append(section);
    state.totals.set(model.id, { joules: 0, cpu: 0, grade: "F" });
  }
  startAnew();
  speak(remembered("language") ?? navigator.language.slice(0, 2));
  if (lost) complain(words("lost"));
  working(lost);
  at("stop").hidden = true;
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("text").value.trim();
    if (!text || isBusy()) return;
    at("text").value = "";
    ask(text);
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
      event.preventDefault();
      at("ask").requestSubmit();
    }
  });
  at("stop").addEventListener("click", () => state.stopping?.abort());
  at("new").addEventListener("click", () => isBusy() || startAnew());
  at("export").addEventListener("click", save);
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => speak(button.dataset.language));
  }
  at("text").focus();
}

start();
