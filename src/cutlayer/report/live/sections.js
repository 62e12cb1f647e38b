// The parts of the page that are no charts: the state, cards, devices, bytes, rounds as numbers.

function stateOf(status) {
  const here = status.devices.filter((device) => device.connected).length;
  if (status.process.failure !== null) return ["bad", `failed: ${status.process.failure}`];
  if (status.finished) return ["good", "finished"];
  if (here === 0) return ["wait", "waiting for devices"];
  return ["good", `round ${status.round} of ${status.rounds}`];
}
function card(name, value, note, part = null) {
  const track = part === null ? null : el("div", { class: "track" },
    el("span", { "width%": 100 * part, colour: WORDS.device }));
  return el("div", { class: "panel card" }, el("div", { class: "name" }, name),
    el("div", { class: "value" }, value), track, el("div", { class: "note" }, note));
}
function cards(status, rounds) {
  const last = status.last, here = status.devices.filter((device) => device.connected).length;
  const up = status.devices.reduce((sum, device) => sum + device.uplink_bytes, 0);
  const down = status.devices.reduce((sum, device) => sum + device.downlink_bytes, 0);
  const own = status.process;
  return [
    card("round", `${status.round} of ${status.rounds}`, roundNote(status), finishedPart(status)),
    scoreCard(rounds.findLast(isEvaluated) ?? last, rounds),
    card("last round", orDash(last?.round ? last.delay_s : null, secondsText),
      last?.slowest_device == null ? "" : `slowest: ${nameOf(status, last.slowest_device)}`),
    card("devices", `${here} of ${status.devices.length}`,
      `connected, ${own.refused_connections} refused`),
    card("sent", bytesText(up + down), `${bytesText(up)} uplink, ${bytesText(down)} downlink`),
    card("server", orDash(own.resident_bytes, bytesText),
      serverNote(own, status.pass_mini_batches)),
  ];
}
function serverNote(own, together) {
  const held = `${bytesText(own.held.now_bytes)} of at most ${bytesText(own.held.most_bytes)}`;
  const passes = together === null ? "" : `; ${threeDigits(together)} mini-batches a pass`;
  return `of memory, ${held} for frames; up ${longText(own.uptime_s)}${passes}`;
}
function finishedPart(status) {
  return (status.finished ? status.round : status.round - 1) / status.rounds;
}
function roundNote(status) {
  if (status.finished) {
    return status.round < status.rounds ? "ended early" : "all rounds closed";
  }
  if (status.deadline_s === null) return `for ${longText(status.round_s)}`;
  const short = status.missing_adapters ? `, ${status.missing_adapters} adapters short` : "";
  return `for ${longText(status.round_s)}, deadline ${longText(status.deadline_s)}${short}`;
}
function scoreCard(last, rounds) {
  if (last === null) return card("accuracy", "–", "");
  const measure = measureOf(last), score = scoreOf(last);
  if (score === undefined) return card(measure, "–", "not evaluated yet");
  if (score === null) return card(measure, "not finite", "the run diverges");
  const first = rounds.length > 0 ? scoreOf(rounds[0]) : null;
  return card(measure, scoreText(score, measure), gain(first, last));
}
function gain(first, last) {
  if (first === null || last.round === 0) return "before training";
  if (measureOf(last) !== "accuracy") return `${threeDigits(first)} before training`;
  const points = 100 * (last.accuracy - first);
  return `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)} points since round 0`;
}
function deviceRow(status, device, number, slowest) {
  const phases = phasesOf(device.delay_by_phase_s);
  const sum = phases.reduce((seconds, phase) => seconds + phase.value, 0);
  const parts = phases.map((phase) => el("span", { colour: phase.colour,
    "width%": 100 * phase.value / slowest, class: phase.wait ? "wait" : "",
    title: `${phase.label}: ${secondsText(phase.value)}` }));
  return el("tr", {},
    el("td", { class: "name" }, el("span", { class: device.connected ? "dot here" : "dot" }),
      nameOf(status, number)),
    el("td", { class: "state-cell" }, presence(device)),
    el("td", { class: "steps" }, status.finished ? "–" : stepsBar(status, device)),
    el("td", { class: "number", "data-label": "up" }, bytesText(device.uplink_bytes)),
    el("td", { class: "number", "data-label": "down" }, bytesText(device.downlink_bytes)),
    el("td", { class: "phases" }, phases.length === 0 ? "–" : el("div", { class: "bar" },
      el("div", { class: "track" }, ...parts), el("b", {}, secondsText(sum)))));
}
function stepsBar(status, device) {
  const part = 100 * device.local_steps / status.local_steps;
  const word = device.adapter_sent ? ", adapter sent" : "";
  return el("div", { class: "bar" },
    el("div", { class: "track" }, el("span", { "width%": part, colour: WORDS.device })),
    el("b", {}, `${device.local_steps} of ${status.local_steps}${word}`));
}
function presence(device) {
  if (device.connected) return "connected";
  if (device.away_s !== null) return `away for ${longText(device.away_s)}`;
  return "not connected yet";
}
function deviceRows(status) {
  const sums = status.devices.map((device) => total(device.delay_by_phase_s ?? {}));
  const slowest = Math.max(...sums, 1e-9);
  return status.devices.map((device, number) => deviceRow(status, device, number, slowest));
}
function payloadRows(status) {
  const counts = Object.entries(status.payload_bytes).filter(([, count]) => count > 0)
    .sort(([, one], [, other]) => other - one);
  if (counts.length === 0) return [el("div", { class: "empty" }, "nothing sent yet")];
  return counts.map(([key, count]) => {
    const own = known(WORDS.payloads, key);
    return el("div", {}, el("dt", { class: "head" }, el("span", {}, own.label),
      el("span", {}, bytesText(count))), el("dd", { class: "track" },
      el("span", { colour: own.colour, "width%": 100 * count / counts[0][1] })));
  });
}
function roundRow(status, round) {
  const cell = (text) => el("td", { class: "number" }, text);
  const slowest = round.slowest_device;
  return el("tr", {}, el("td", {}, String(round.round)),
    cell(orDash(scoreOf(round), (value) => scoreText(value, measureOf(round)))),
    cell(orDash(round.eval_loss, threeDigits)), cell(orDash(round.train_loss, threeDigits)),
    cell(orDash(round.delay_s, secondsText)), cell(orDash(round.uplink_bytes, bytesText)),
    cell(orDash(round.downlink_bytes, bytesText)),
    el("td", {}, orDash(slowest, (number) => nameOf(status, number))));
}
