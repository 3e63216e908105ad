"use strict";
// Line charts. Each figure.chart names a section and a chart of report.data; it is drawn when it comes into view.
(() => {
  const HEIGHT = 220, COLORS = 10;
  const axis = document.getElementById("axis");
  const allCurves = Object.assign({}, ...Object.values(report.data).map((section) => section.curves));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const compact = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= unit) {
        const scale = letter === "k" ? 1e3 : unit;
        return `${Number((value / scale).toPrecision(4))}${letter}`;
      }
    }
    if (size !== 0 && size < 1e-3) return value.toExponential(1);
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  };

  // Columns of one line: positions and values, sorted by position, without points that have no position.
  const columns = (curves, figure, log) => {
    const x = curves.x[axis.value], names = [curves.y, curves.low, curves.high];
    const order = x.map((_, i) => i).filter((i) => x[i] !== null).sort((a, b) => x[a] - x[b]);
    const visible = (value) => (value === null || value === undefined || (log && value <= 0) ? null : value);
    return [order.map((i) => x[i]), ...names.map((of) => order.map((i) => visible(of[figure]?.[i])))];
  };

  // What uPlot draws: one array of positions, and the values, low and high ends of each line.
  const table = (spec) => {
    const lines = spec.series.map(({ curves: key, figure }) => columns(allCurves[key], figure, spec.log));
    const shared = spec.series.every(({ curves: key }) => key === spec.series[0].curves);
    return shared ? [lines[0][0], ...lines.flatMap((line) => line.slice(1))] : uPlot.join(lines);
  };

  const draw = (figure) => {
    const section = report.data[figure.dataset.section];
    const spec = section.charts.find((chart) => chart.id === figure.dataset.chart);
    const host = figure.querySelector(".plot"), data = table(spec);
    const line = css("--line"), text = css("--muted"), several = section.names !== undefined;
    const series = [{ label: axis.selectedOptions[0].textContent, value: (_, value) => compact(value) }], bands = [];
    spec.series.forEach(({ curves: key, figure: name, label }, i) => {
      const color = css(`--c${i % COLORS}`), few = data[0].length < 60;
      const edge = { stroke: "transparent", class: "edge", points: { show: false }, spanGaps: several };
      series.push({
        label: several ? section.names[key] : label,
        stroke: color,
        width: 1.75,
        dash: i < COLORS ? undefined : [6, 4],
        points: { show: few, size: 5, fill: color },
        spanGaps: several,
        value: (u, value, at, index) => (index === null || value === null ? "–" : withInterval(u, at, index, value)),
      }, { ...edge, label: `${name} low` }, { ...edge, label: `${name} high` });
      bands.push({ series: [3 * i + 3, 3 * i + 2], fill: `${color}2b` });
    });
    if (spec.floor !== undefined && spec.floor !== null) {
      series.push({
        label: "real images", stroke: text, width: 1.25, dash: [4, 4], points: { show: false }, spanGaps: true,
        value: (_, value) => compact(spec.floor),
      });
      data.push(data[0].map(() => spec.floor));
    }
    const range = (u, low, high) => {
      if (low === null) return [0, 1];
      const pad = (high - low || Math.abs(high) || 1) * 0.06;
      return [spec.low ?? low - pad, spec.high ?? high + pad];
    };
    const options = {
      width: host.clientWidth, height: HEIGHT, series, bands, padding: [8, 20, 0, 0],
      cursor: { sync: { key: "x", setSeries: false }, focus: { prox: 24 }, drag: { x: true, y: false } },
      focus: { alpha: several ? 0.25 : 1 },
      legend: { live: true, markers: { width: 0, fill: (_, i) => series[i].stroke ?? "transparent" } },
      scales: { x: { time: false }, y: spec.log ? { distr: 3, range: logRange } : { range } },
      axes: [
        { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, size: 4 }, size: 30,
          values: (_, splits) => splits.map(compact) },
        { stroke: text, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 52,
          splits: spec.log ? logSplits : undefined, filter: (_, splits) => splits,
          values: (_, splits) => splits.map((value) => (value === null ? "" : compact(value))) },
      ],
      hooks: { drawAxes: [(u) => marks(u, section, spec, text)] },
    };
    figure.plot?.destroy();
    const plot = new uPlot(options, data, host);
    figure.plot = plot;
    for (const entry of host.querySelectorAll(".u-legend .u-series:not(.edge) th")) {
      entry.tabIndex = 0;  // uPlot's legend hides a line on a click only
      entry.setAttribute("role", "button");
    }
  };

  const logRange = (u, low, high) => (low === null || !(low > 0) ? [0.1, 1] : [low / 1.15, high * 1.15]);

  // 1, 2, 5, 10, … within the range; powers of ten if these are too many, all multiples if they are too few.
  const logSplits = (u, index, low, high) => {
    const pick = (multiples) => {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
        found.push(...multiples.map((multiple) => Number((multiple * 10 ** power).toPrecision(3))));
      }
      return found.filter((value) => value >= low && value <= high);
    };
    const [tens, few, many] = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]].map(pick);
    return few.length > 7 ? tens : few.length > 2 ? few : many;
  };

  const withInterval = (u, at, index, value) => {
    const low = u.data[at + 1]?.[index], high = u.data[at + 2]?.[index];
    const known = low !== null && low !== undefined && high !== null && high !== undefined;
    return known ? `${compact(value)} (${compact(low)} to ${compact(high)})` : compact(value);
  };

  // Vertical lines where a session was resumed.
  const marks = (u, section, spec, color) => {
    const { x } = allCurves[spec.series[0].curves];
    if (!section.marks) return;
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = color;
    ctx.setLineDash([2, 4]);
    ctx.lineWidth = devicePixelRatio;
    for (const step of section.marks) {
      const at = x.step.findIndex((known) => known >= step);
      if (at < 0) continue;
      const position = u.valToPos(x[axis.value][at], "x", true);
      if (position < bbox.left || position > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(position, bbox.top);
      ctx.lineTo(position, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };

  // Zoom around the cursor, or around the middle; a factor of 0 shows everything.
  const zoom = (u, factor) => {
    const x = u.data[0], whole = [x[0], x[x.length - 1]];
    if (factor === 0 || x.length < 2) return u.setScale("x", { min: whole[0], max: whole[1] });
    const { min, max } = u.scales.x, width = (max - min) * factor;
    const middle = u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : (min + max) / 2;
    const low = Math.max(whole[0], middle - width * ((middle - min) / (max - min)));
    return u.setScale("x", { min: low, max: Math.min(whole[1], low + width) });
  };

  const move = (u, points) => {
    const at = u.cursor.idx ?? 0, last = u.data[0].length - 1;
    const index = Math.min(Math.max(at + points, 0), last);
    u.setCursor({ left: u.valToPos(u.data[0][index], "x"), top: u.over.clientHeight / 2 });
  };

  const KEYS = {
    ArrowLeft: (u, big) => move(u, big ? -10 : -1), ArrowRight: (u, big) => move(u, big ? 10 : 1),
    Home: (u) => move(u, -Infinity), End: (u) => move(u, Infinity),
    "+": (u) => zoom(u, 0.5), "=": (u) => zoom(u, 0.5), "-": (u) => zoom(u, 2), 0: (u) => zoom(u, 0),
  };

  const figures = [...document.querySelectorAll("figure.chart")];
  for (const figure of figures) {
    const host = figure.querySelector(".plot");
    host.addEventListener("keydown", (event) => {
      if (event.target.matches("th") && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        event.target.click();
      } else if (figure.plot && KEYS[event.key] && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        KEYS[event.key](figure.plot, event.shiftKey);
      }
    });
    host.addEventListener("touchmove", (event) => {  // uPlot follows the mouse only
      if (!figure.plot || event.touches.length !== 1) return;
      const box = figure.plot.over.getBoundingClientRect(), touch = event.touches[0];
      figure.plot.setCursor({ left: touch.clientX - box.left, top: touch.clientY - box.top });
    }, { passive: true });
    for (const button of figure.querySelectorAll("button[data-zoom]")) {
      button.addEventListener("click", () => figure.plot && zoom(figure.plot, Number(button.dataset.zoom)));
    }
  }

  const near = new Set();
  const drawOnce = (figure) => {
    if (near.has(figure)) return;
    near.add(figure);
    draw(figure);
  };
  const watch = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawOnce(entry.target));
  }, { rootMargin: "300px" });
  figures.forEach((figure) => watch.observe(figure));
  addEventListener("beforeprint", () => figures.forEach(drawOnce));  // paper has no scrolling

  const redraw = () => near.forEach(draw);
  report.redraw.push(redraw);
  axis?.addEventListener("change", redraw);
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const { plot } = target.closest("figure");
      if (plot && target.clientWidth && plot.width !== target.clientWidth) {
        plot.setSize({ width: target.clientWidth, height: HEIGHT });
      }
    }
  });
  figures.forEach((figure) => resized.observe(figure.querySelector(".plot")));
})();
