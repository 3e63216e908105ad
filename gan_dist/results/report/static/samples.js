"use strict";
// Sliders over the epochs, with a button that plays them.
(() => {
  const FRAME = 120;  // milliseconds

  const slider = (box, count, show) => {
    const range = box.querySelector("input[type=range]"), button = box.querySelector("button[data-play]");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = "▶ Play";
      button.setAttribute("aria-pressed", "false");
    };
    const go = (position) => {
      range.value = position;
      range.setAttribute("aria-valuetext", show(Number(range.value)));
    };
    range.max = count - 1;
    range.addEventListener("input", () => { stop(); go(range.value); });
    button.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(range.value) >= count - 1) go(0);
      button.textContent = "❚❚ Pause";
      button.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        if (Number(range.value) >= count - 1) stop();
        else go(Number(range.value) + 1);
      }, Math.max(FRAME, 6000 / count > 400 ? 400 : 6000 / count));
      return undefined;
    });
    go(count - 1);
  };

  const samples = report.data.samples, box = document.querySelector("#samples .player");
  if (samples && box) {
    const picture = document.getElementById("grid"), label = document.getElementById("epoch");
    slider(box, samples.epochs.length, (position) => {
      picture.src = samples.pictures[position];
      label.textContent = `epoch ${samples.epochs[position].toLocaleString("en")}`;
      return label.textContent;
    });
  }

  // Several runs: positions are shares of the most images seen, and each run shows its latest strip before them.
  const strips = report.data.strips?.strips, player = document.querySelector("#strips .player");
  if (strips && player) {
    const most = Math.max(1, ...strips.flatMap(({ images }) => images));
    const positions = [...new Set(strips.flatMap(({ images }) => images))].sort((a, b) => a - b);
    const label = document.getElementById("images");
    const rows = [...document.querySelectorAll("#strips .strip")];
    slider(player, positions.length, (position) => {
      const seen = positions[position];
      label.textContent = `${seen.toLocaleString("en")} images seen (${Math.round(100 * seen / most)} %)`;
      strips.forEach(({ images, epochs, pictures }, i) => {
        const at = images.findLastIndex((value) => value <= seen);
        const picture = rows[i].querySelector("img"), caption = rows[i].querySelector(".at");
        picture.hidden = at < 0;
        if (at >= 0) picture.src = pictures[at];
        caption.textContent = at < 0 ? "no grid yet" : `epoch ${epochs[at].toLocaleString("en")}`;
      });
      return label.textContent;
    });
  }
})();
