// Charts: seconds of each round, stacked by phase, and lines by round. Drawn at the width that is there.

const HEIGHT = 250, LEFT = 52, RIGHT = 14, TOP = 22, BOTTOM = 40;

// ticks at 1, 2, 2.5 or 5 times a power of ten, about `most` of them
function ticks(low, high, most) {
  const rough = (high - low || 1) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  const digits = Math.max(0, -Math.floor(Math.log10(step)) + (step / power === 2.5 ? 1 : 0));
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step)
    .map((value) => ({ value, text: value.toFixed(Math.min(digits, 6)) }));
}
function frame(holder, low, high, unit, label) {
  const width = Math.max(holder.clientWidth, 240);
  const y = (value) => HEIGHT - BOTTOM
    - (value - low) / (high - low || 1) * (HEIGHT - TOP - BOTTOM);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img",
    tabindex: 0, "aria-label": label });
  for (const tick of ticks(low, high, 5)) {
    const at = y(tick.value);
    drawn.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: at, y2: at, class: "rule" }),
      svg("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, tick.text));
  }
  drawn.append(svg("text", { x: LEFT - 8, y: 12, "text-anchor": "end" }, unit));
  const base = HEIGHT - BOTTOM;
  drawn.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: base, y2: base, class: "axis" }),
    svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" },
      "round"));
  return { drawn, width, y };
}
function roundTicks(drawn, rounds, x, width) {
  const fit = Math.max(2, Math.floor((width - LEFT - RIGHT) / 44));
  const span = rounds.length - 1;
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    .find((size) => span / size <= fit) ?? span;
  rounds.forEach((round, index) => {
    if (round.round % step === 0 || rounds.length <= 2) {
      drawn.append(svg("text", { x: x(index), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" },
        String(round.round)));
    }
  });
}

function delayChart(holder, all) {
  const played = all.filter((round) => round.round > 0);
  if (played.length === 0) {
    return [el("p", { class: "empty" }, "No round has finished yet. Its delay by phase will be shown here.")];
  }
  const most = Math.max(6, Math.floor((holder.clientWidth - LEFT - RIGHT) / 9));
  const shown = played.slice(-most);
  const heights = shown.map((round) => round.delay_s);
  const [unit, size] = timeUnit(Math.max(...heights));
  const top = 1.08 * Math.max(...heights, 1e-9) / size;
  const { drawn, width, y } = frame(holder, 0, top, unit,
    `Delay by phase of rounds ${shown[0].round} to ${shown[shown.length - 1].round}`);
  const slot = (width - LEFT - RIGHT) / Math.max(shown.length, 6);
  const x = (index) => LEFT + slot * (index + 0.5);
  const thick = Math.min(0.72 * slot, 72);
  shown.forEach((round, index) => column(drawn, round, x(index) - thick / 2, thick, y, size));
  roundTicks(drawn, shown, x, width);
  const keys = WORDS.phases.filter((own) =>
    shown.some((round) => round.delay_by_phase_s[own.key] > 0));
  const cut = shown.length < played.length;
  return [drawn, inspect(drawn, shown, x, slot, width, delayLines), legend(keys),
    cut ? el("p", { class: "note" }, `The last ${shown.length} of ${played.length} rounds.`) : null];
}
function column(drawn, round, left, thick, y, size) {
  let below = 0;
  for (const phase of phasesOf(round.delay_by_phase_s)) {
    const bottom = y(below / size), top = y((below += phase.value) / size);
    drawn.append(svg("rect", { class: phase.wait ? "fill wait" : "fill", colour: phase.colour,
      x: left, y: top, width: thick, height: bottom - top }));
  }
}
function delayLines(round) {
  const seconds = (own, text) => el("div", { class: own.wait ? "wait" : "" },
    el("span", {}, el("i", { colour: own.colour }), own.label), el("span", {}, text));
  return [el("div", { class: "head" }, el("span", {}, `round ${round.round}`),
    el("span", {}, secondsText(round.delay_s))),
    el("div", { class: "legend" }, ...phasesOf(round.delay_by_phase_s).map((own) =>
      seconds(own, secondsText(own.value))))];
}
function legend(keys) {
  return el("ul", { class: "legend" }, ...keys.map((own) =>
    el("li", { class: own.wait ? "wait" : "" }, el("i", { colour: own.colour }), own.label)));
}

function lineChart(holder, rounds, series, unit, label) {
  const values = series.flatMap((own) => rounds.map(own.value)).filter((value) => value !== null);
  if (values.length === 0) {
    return [el("p", { class: "empty" }, "Measured before the first round and after each one.")];
  }
  const span = Math.max(...values) - Math.min(...values) || Math.abs(values[0]) || 1;
  const low = Math.max(Math.min(...values) - 0.1 * span, 0);
  const { drawn, width, y } = frame(holder, low, Math.max(...values) + 0.14 * span, unit, label);
  const gap = (width - LEFT - RIGHT - 24) / Math.max(rounds.length - 1, 1);
  const x = (index) => LEFT + 12 + gap * index;
  for (const own of series) {
    drawn.append(...curve(rounds, own, x, y));
  }
  roundTicks(drawn, rounds, x, width);
  const lines = (round) => lineLines(round, series);
  return [drawn, inspect(drawn, rounds, x, gap, width, lines), legend(series)];
}
function curve(rounds, own, x, y) {
  const points = rounds.map((round, index) => [x(index), own.value(round)]);
  let path = "", pen = "M";
  for (const [at, value] of points) {
    if (value !== null) path += `${pen}${at.toFixed(1)} ${y(value).toFixed(1)}`;
    pen = value === null ? "M" : "L";
  }
  const dots = rounds.length > 60 ? [] : points.filter(([, value]) => value !== null)
    .map(([at, value]) => svg("circle", { cx: at, cy: y(value), r: 3.2, class: "fill",
      colour: own.colour }));
  const [at, value] = points.findLast(([, found]) => found !== null) ?? [0, null];
  const end = value === null || !own.text ? null : svg("text", { class: "label", x: at,
    y: y(value) - 10, "text-anchor": points.length > 1 ? "end" : "start" }, own.text(value));
  return [svg("path", { class: "curve", d: path || "M0 0", colour: own.colour }), ...dots,
    ...(end === null ? [] : [end])];
}
function lineLines(round, series) {
  return [el("div", { class: "head" }, `round ${round.round}`), el("div", { class: "legend" },
    ...series.map((own) => el("div", {}, el("span", {}, el("i", { colour: own.colour }),
      own.label), el("span", {}, orDash(own.value(round), own.exact)))))];
}

// the round under the pointer, or the one that the arrow keys chose
function inspect(drawn, rounds, x, slot, width, lines) {
  const tip = el("div", { class: "tip", role: "status", hidden: "" });
  const mark = svg("rect", { class: "chosen", y: TOP, height: HEIGHT - TOP - BOTTOM,
    visibility: "hidden" });
  drawn.insertBefore(mark, drawn.firstChild);
  let chosen = rounds.length;
  const hide = () => { tip.hidden = true; mark.setAttribute("visibility", "hidden"); };
  const show = (index) => {
    chosen = Math.min(Math.max(index, 0), rounds.length - 1);
    const wide = Math.min(Math.max(slot, 8), 90);
    mark.setAttribute("x", x(chosen) - wide / 2);
    mark.setAttribute("width", wide);
    mark.setAttribute("visibility", "visible");
    tip.replaceChildren(...lines(rounds[chosen]));
    tip.hidden = false;
    const right = x(chosen) > width / 2;
    tip.style.left = right ? "" : `${x(chosen) + wide / 2 + 10}px`;
    tip.style.right = right ? `${width - x(chosen) + wide / 2 + 10}px` : "";
  };
  drawn.addEventListener("pointermove", (event) => {
    const at = event.clientX - drawn.getBoundingClientRect().left;
    show(Math.round((at - x(0)) / slot));
  });
  drawn.addEventListener("pointerleave", hide);
  drawn.addEventListener("blur", hide);
  drawn.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (step === undefined) return;
    event.preventDefault();
    show(chosen + step);
  });
  return tip;
}

function scoreSeries(measure) {
  const factor = measure === "accuracy" ? 100 : 1;
  const label = `${measure} on the server's held-out samples`;
  return [{ label, colour: WORDS.score, text: (value) => scoreText(value / factor, measure),
    exact: (value) => scoreText(value / factor, measure),
    value: (round) => (scoreOf(round) === null ? null : factor * scoreOf(round)) }];
}
const LOSSES = [
  { label: "training", colour: WORDS.train, exact: threeDigits, value: (round) => round.train_loss ?? null },
  { label: "evaluation", colour: WORDS.score, exact: threeDigits,
    value: (round) => round.eval_loss ?? null },
];
