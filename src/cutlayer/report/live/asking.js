// Asks the server again and again, and draws anew what has changed.

const PERIOD_MS = 1500, LONGEST_PAUSE_MS = 30000, PATIENCE_MS = 5000;

const drawnFrom = new Map();
function put(id, from, make) {
  const key = JSON.stringify(from);
  if (drawnFrom.get(id) === key) return;
  drawnFrom.set(id, key);
  byId(id).replaceChildren(...make().filter((child) => child !== null));
}
function show(status, rounds) {
  document.title = `${stateOf(status)[1]} · ${status.run}`;
  byId("run").textContent = status.run;
  byId("title").textContent = status.title;
  put("cards", [status, rounds.length], () => cards(status, rounds));
  put("devices", [status.devices, status.local_steps, status.finished], () => deviceRows(status));
  put("payloads", status.payload_bytes, () => payloadRows(status));
  put("rounds", [rounds.length, status.run, rounds[rounds.length - 1]], () =>
    rounds.map((round) => roundRow(status, round)).reverse());
  charts(status, rounds);
}
function charts(status, rounds) {
  const evaluated = rounds.filter(isEvaluated);
  const measure = measureOf(evaluated[0] ?? status.last), about = [status.run, rounds.length];
  const unit = measure === "accuracy" ? "%" : "";
  const title = measure[0].toUpperCase() + measure.slice(1);
  byId("score-head").textContent = title;
  byId("score-column").textContent = measure;
  for (const [id, make] of [
    ["delays", (holder) => delayChart(holder, rounds)],
    ["score", (holder) => lineChart(holder, evaluated, scoreSeries(measure), unit, `${title} by round`)],
    ["loss", (holder) => lineChart(holder, rounds, LOSSES, "", "Losses by round")],
  ]) {
    const holder = byId(id);
    put(id, [...about, holder.clientWidth], () => make(holder));
  }
}
function say(tone, text) {
  const state = byId("state");
  if (state.textContent !== text) state.textContent = text;
  state.dataset.tone = tone;
}

let shown = null, rounds = [], pause_ms = PERIOD_MS, heard_ms = Date.now(), timer = 0;
let asking = false;

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}
const newest = () => (rounds.length ? rounds[rounds.length - 1].round : -1);
async function update() {
  const status = await ask("status"), last = status.last?.round ?? -1;
  if (status.run !== shown?.run || last < newest()) rounds = [];
  while (newest() < last) {
    const more = await ask(`rounds?after=${newest()}`);
    if (more.length === 0) break;
    rounds.push(...more);
  }
  shown = status;
  show(status, rounds);
  say(...stateOf(status));
}
function lost() {
  if (shown?.finished) return say("good", "finished; the server has ended");
  const away_s = (Date.now() - heard_ms) / 1000;
  say("bad", `lost contact ${longText(away_s)} ago, next try in ${longText(pause_ms / 1000)}`);
}
async function turn() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    await update();
    pause_ms = PERIOD_MS;
    heard_ms = Date.now();
  } catch {
    pause_ms = Math.min(2 * pause_ms, LONGEST_PAUSE_MS);
    lost();
  }
  asking = false;
  timer = setTimeout(turn, pause_ms);
}
new ResizeObserver(() => { if (shown) charts(shown, rounds); }).observe(byId("delays"));
document.addEventListener("visibilitychange", () => { if (!document.hidden) turn(); });
turn();
