// Line charts of a run's metrics, one a figure that was measured more than once; they grow while
// the run goes on.

const POLL_MS = 3000;
const holder = document.querySelector("[data-charts]");
const charts = new Map();

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function size(element) {
  return { width: Math.max(220, element.clientWidth), height: 170 };
}

function axis() {
  return { stroke: css("--muted"), grid: { stroke: css("--line") }, ticks: { stroke: css("--line") } };
}

// A learning rate of 5e-6 is no 0.
const tick = (value) => {
  const small = value !== 0 && Math.abs(value) < 1e-3;
  if (small) return Number(value.toPrecision(2)).toExponential();
  return value.toLocaleString("en", { maximumSignificantDigits: 6 }).replaceAll(",", "\u202f");
};

function makeChart(name, data) {
  const figure = document.createElement("figure");
  figure.className = "chart";
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  const plot = document.createElement("div");
  plot.className = "chart-plot";
  figure.append(caption, plot);
  holder.append(figure);
  const options = {
    ...size(plot),
    scales: { x: { time: false } },
    legend: { show: false },
    cursor: { y: false },
    axes: [axis(), { ...axis(), size: 64, values: (_, ticks) => ticks.map(tick) }],
    series: [
      { label: "step" },
      { label: name, stroke: css("--accent"), width: 1.75, spanGaps: true, points: { show: data[0].length < 3 } },
    ],
    hooks: {
      setCursor: [
        (chart) => {
          const at = chart.cursor.idx;
          const value = at == null ? null : chart.data[1][at];
          caption.textContent = value == null ? name : `${name}: ${value.toPrecision(4)} at ${chart.data[0][at]}`;
        },
      ],
    },
  };
  const chart = new uPlot(options, data, plot);
  new ResizeObserver(() => chart.setSize(size(plot))).observe(plot);
  return chart;
}

function draw(phases) {
  for (const [phase, values] of Object.entries(phases)) {
    const { step, ...figures } = values;
    for (const [key, points] of Object.entries(figures)) {
      const name = Object.keys(phases).length > 1 ? `${phase}: ${key}` : key;
      const known = charts.get(name);
      if (known) known.setData([step, points]);
      else if (points.filter((point) => point !== null).length > 1) {
        if (!charts.size) holder.replaceChildren();
        charts.set(name, makeChart(name, [step, points]));
      }
    }
  }
}

async function refresh() {
  try {
    const answer = await fetch(holder.dataset.charts, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const { over, phases } = await answer.json();
    draw(phases);
    if (!over) setTimeout(refresh, POLL_MS);
  } catch {
    setTimeout(refresh, POLL_MS); // the network is back some time, and the run goes on meanwhile
  }
}

if (holder) refresh();
