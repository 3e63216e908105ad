// The controls of a generator: see explorer.html.j2. An image is a function of a latent and of a class.

const REACH = 3;  // standard deviations from the middle of the pad, or of a slider, to its end
const TILES = 7;  // images along each side of the pad
const LEG = 2000;  // milliseconds between two images of a walk
const SLOW = 60;  // milliseconds for an image: with more, the pad has no images
const BUDGET = 8;  // milliseconds in a frame for the pad's images
const MANY = 24;  // classes that are a list instead of buttons

function start(root) {
  const find = (selector) => root.querySelector(selector);
  const data = JSON.parse(find(".explorer-data").textContent);
  const [channels, height, width] = data.shape;
  const generate = compile(data.generator, [data.latent_dim]);
  const judge = data.discriminator && compile(data.discriminator, data.shape);
  const directions = data.shares.map((share, i) => unpack(data.directions).subarray(
    i * data.latent_dim, (i + 1) * data.latent_dim));

  let latent = randomLatent(), mix = {from: 0, to: 0, part: 0};
  let walk = null, scheduled = false, cost = 0;
  let mapped = 0, mapping = false;  // images of the pad that are drawn; whether a frame for more is scheduled

  // Latents

  function randomLatent() {
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    return Float32Array.from({length: data.latent_dim}, normal);
  }

  function coordinate(values, i) {
    return values.reduce((sum, value, k) => sum + value * directions[i][k], 0);
  }

  // The latent with other coordinates along some directions: [[direction, coordinate], …].
  function moved(values, coordinates) {
    const result = Float32Array.from(values);
    for (const [i, wanted] of coordinates) {
      const change = wanted - coordinate(values, i);
      directions[i].forEach((part, k) => { result[k] += change * part; });
    }
    return result;
  }

  // Spherical interpolation (White 2016, arXiv:1609.04468): the length of a latent stays typical.
  function between(a, b, part) {
    const product = (x, y) => x.reduce((sum, value, k) => sum + value * y[k], 0);
    const cosine = product(a, b) / Math.sqrt(product(a, a) * product(b, b));
    const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
    const [p, q] = angle > 1e-3 ? [Math.sin((1 - part) * angle), Math.sin(part * angle)] : [1 - part, part];
    const scale = angle > 1e-3 ? Math.sin(angle) : 1;
    return a.map((value, k) => (p * value + q * b[k]) / scale);
  }

  // Drawing

  function toPixels(image, pixels) {  // image: (C, H, W) in [-1, 1]
    const area = height * width;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = 127.5 * (image[(channels === 1 ? 0 : c) * area + i] + 1);
      pixels[4 * i + 3] = 255;
    }
  }

  const canvas = find(".explorer-picture"), context = canvas.getContext("2d");
  [canvas.width, canvas.height] = [width, height];
  const frame = context.createImageData(width, height);

  function draw() {
    const before = performance.now();
    const picture = generate(latent, mix);
    cost = performance.now() - before;
    toPixels(picture, frame.data);
    context.putImageData(frame, 0, 0);
    showCoordinates();
    showClass();
    if (judge) showOpinion(judge(picture, mix)[0]);
  }

  // Draws in the next frame, once, whatever is called before it. `other`: the pad shows other images from now on.
  function change(other = true) {
    if (other) mapped = 0;
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame((now) => {
      scheduled = false;
      if (walk) advance(now);
      draw();
      if (walk) change();
      else mapPad();
    });
  }

  // The pad

  const pad = find(".explorer-pad"), marker = find(".explorer-marker");
  const padContext = find(".explorer-pad canvas").getContext("2d");
  const tile = document.createElement("canvas");
  [tile.width, tile.height] = [width, height];
  const tileFrame = context.createImageData(width, height);

  // Draws the images of the pad, some in each frame.
  function mapPad() {
    if (mapping || walk || cost > SLOW || directions.length < 2 || mapped === TILES * TILES) return;
    mapping = true;
    requestAnimationFrame(() => {
      mapping = false;
      const started = performance.now();
      while (mapped < TILES * TILES && performance.now() - started < BUDGET) drawTile(mapped++);
      mapPad();
    });
  }

  function drawTile(index) {
    const column = index % TILES, row = Math.floor(index / TILES);
    const at = (position) => REACH * (2 * (position + 0.5) / TILES - 1);
    toPixels(generate(moved(latent, [[0, at(column)], [1, -at(row)]]), mix), tileFrame.data);
    tile.getContext("2d").putImageData(tileFrame, 0, 0);
    const side = padContext.canvas.width / TILES, scale = side / Math.max(width, height);
    const left = column * side + (side - width * scale) / 2, top = row * side + (side - height * scale) / 2;
    padContext.imageSmoothingEnabled = scale < 1;
    padContext.drawImage(tile, left, top, width * scale, height * scale);
  }

  const limit = (value) => Math.min(Math.max(value, -REACH), REACH);
  const moveTo = (x, y) => {
    stop();
    latent = moved(latent, directions.length > 1 ? [[0, limit(x)], [1, limit(y)]] : [[0, limit(x)]]);
    change(false);
  };
  const follow = (event) => {
    const box = pad.getBoundingClientRect();
    moveTo(REACH * (2 * (event.clientX - box.left) / box.width - 1), REACH * (1 - 2 * (event.clientY - box.top) / box.height));
  };
  pad.addEventListener("pointerdown", (event) => { pad.setPointerCapture(event.pointerId); follow(event); });
  pad.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
  pad.addEventListener("keydown", (event) => {
    const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key] || [0, 0];
    if (!x && !y) return;
    event.preventDefault();
    const by = event.shiftKey ? 0.5 : 0.1;
    moveTo(coordinate(latent, 0) + by * x, (directions.length > 1 ? coordinate(latent, 1) : 0) + by * y);
  });

  // Sliders

  const sliders = data.shares.map((share, i) => {
    const label = document.createElement("label"), name = document.createElement("span");
    const input = document.createElement("input"), output = document.createElement("output");
    const part = document.createElement("small");
    name.textContent = i + 1;
    Object.assign(input, {type: "range", min: -REACH, max: REACH, step: 0.05});
    input.setAttribute("aria-label", `Direction ${i + 1}`);
    part.textContent = `${(100 * share).toFixed(share < 0.095 ? 1 : 0)} %`;
    label.append(name, input, output, part);
    find(".explorer-sliders").append(label);
    input.addEventListener("input", () => {
      stop();
      latent = moved(latent, [[i, Number(input.value)]]);
      change(i > 1);
    });
    return {input, output};
  });

  function showCoordinates() {
    const values = directions.map((direction, i) => coordinate(latent, i));
    sliders.forEach(({input, output}, i) => {
      if (document.activeElement !== input || walk) input.value = values[i];
      output.textContent = values[i].toFixed(1).replace("-", "−");
    });
    const percent = (value) => `${50 + 50 * limit(value) / REACH}%`;
    marker.style.left = percent(values[0]);
    marker.style.top = percent(-(values[1] ?? 0));
  }

  // Classes

  const choices = makeChoices();

  function makeChoices() {
    if (!data.classes) return {show() {}};
    const group = find(".explorer-classes");
    const choose = (label) => {
      stop();
      mix = {from: label, to: label, part: 0};
      change();
    };
    if (data.classes.length > MANY) {
      const list = document.createElement("select");
      list.setAttribute("aria-label", "Class");
      data.classes.forEach((name, label) => list.add(new Option(name, label)));
      list.addEventListener("change", () => choose(Number(list.value)));
      group.append(list);
      return {show(label) { list.value = label; }};
    }
    const buttons = data.classes.map((name, label) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => choose(label));
      group.append(button);
      return button;
    });
    return {show(label) { buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === label)); }};
  }

  function showClass() {
    if (!data.classes) return;
    const label = mix.part < 0.5 ? mix.from : mix.to;
    choices.show(label);
    canvas.setAttribute("aria-label", `Generated image of class ${data.classes[label]}`);
  }

  // The discriminator's opinion

  function showOpinion(logit) {
    const {paired, quantiles} = data.discriminator;
    const rank = quantiles.filter((quantile) => quantile < logit).length / quantiles.length;
    const score = paired ? rank : 1 / (1 + Math.exp(-logit));
    const higher = `${Math.round(100 * rank)} % of this generator's images`;
    find(".explorer-opinion output").textContent = paired ? higher.split(" of")[0] : `${Math.round(100 * score)} % real`;
    find(".explorer-opinion p").textContent = paired ? `More real to it than ${higher}.` : `More than for ${higher}.`;
    find(".explorer-bar div").style.width = `${100 * score}%`;
  }

  // Walks

  const toggles = {walk: find('[data-action="walk"]'), classes: find('[data-action="classes"]')};

  function stop() {
    walk = null;
    mix = mix.part < 0.5 ? {from: mix.from, to: mix.from, part: 0} : {from: mix.to, to: mix.to, part: 0};
    Object.values(toggles).forEach((button) => button?.setAttribute("aria-pressed", false));
  }

  function toggle(kind) {
    const running = walk?.kind;
    stop();
    if (running !== kind) {
      walk = {kind, started: null, from: latent, to: randomLatent()};
      toggles[kind].setAttribute("aria-pressed", true);
    }
    change();
  }

  function advance(now) {
    walk.started ??= now;
    if (now - walk.started >= LEG) {
      walk.started = now;
      [walk.from, walk.to] = [walk.to, randomLatent()];
      if (walk.kind === "classes") mix = {from: mix.to, to: mix.to, part: 0};
    }
    const part = (now - walk.started) / LEG, smooth = part * part * (3 - 2 * part);
    if (walk.kind === "walk") latent = between(walk.from, walk.to, smooth);
    else mix = {from: mix.from, to: (mix.from + 1) % data.classes.length, part: smooth};
  }

  // Buttons and keys

  const actions = {
    draw() { stop(); latent = randomLatent(); change(); },
    centre() { stop(); latent = moved(latent, directions.map((direction, i) => [i, 0])); change(); },
    walk() { toggle("walk"); },
    classes() { if (data.classes) toggle("classes"); },
  };
  const keys = {n: "draw", w: "walk", c: "classes", 0: "centre"};
  for (const button of root.querySelectorAll("[data-action]")) {
    button.addEventListener("click", actions[button.dataset.action]);
  }
  root.addEventListener("keydown", (event) => {
    const action = keys[event.key.toLowerCase()];
    if (action && !event.ctrlKey && !event.metaKey && !event.altKey && event.target.tagName !== "SELECT") actions[action]();
  });

  // For scripts, such as tests: the image (C * H * W numbers in [-1, 1]) and the logit of a latent and a class.
  root.explorer = {
    data,
    generate: (values, label = 0) => Float32Array.from(generate(values, {from: label, to: label, part: 0})),
    judge: judge && ((image, label = 0) => judge(image, {from: label, to: label, part: 0})[0]),
  };
  draw();
  performance.mark("explorer-ready");
  change();
}

// A page that hides the generator at first, in a tab, does not wait for it.
const visible = new IntersectionObserver((entries) => {
  for (const {target} of entries.filter((entry) => entry.isIntersecting)) {
    visible.unobserve(target);
    try {
      start(target);
    } catch (error) {
      const failed = target.querySelector(".explorer-failed");
      failed.textContent = `The generator can't run in this browser: ${error.message}`;
      failed.hidden = false;
    }
    if (target.closest("[data-explorer-focus]")) target.focus({preventScroll: true});
  }
});
document.querySelectorAll(".gan-explorer").forEach((root) => visible.observe(root));
