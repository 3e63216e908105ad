// The controls of a generator: see explorer.html.j2. An image is a function of a latent and of a class.

const LEG = 2000;  // milliseconds between two images of a walk
const KEYS = {n: "draw", w: "walk", c: "classes", 0: "centre"};

class Explorer {
  constructor(root) {
    const data = JSON.parse(root.querySelector(".explorer-data").textContent);
    this.root = root;
    this.data = data;
    this.generate = compile(data.generator, [data.latent_dim]);
    this.judge = data.discriminator && compile(data.discriminator, data.shape);
    this.directions = new Directions(data.directions, data.latent_dim);
    this.latent = randomLatent(data.latent_dim);
    this.mix = {from: 0, to: 0, part: 0};  // of two classes: see `compile`
    this.walk = null;
    this.scheduled = false;
    this.picture = new Picture(root.querySelector(".explorer-picture"), data.shape);
    this.views = [new Sliders(this), new Pad(this)];
    if (data.classes) this.views.push(new Classes(this));
    if (this.judge) this.views.push(new Opinion(this));
    this.toggles = [...root.querySelectorAll("[aria-pressed][data-action]")];
    this.listen();
    this.draw();
  }

  // The class that the image is closest to.
  get label() {
    return this.mix.part < 0.5 ? this.mix.from : this.mix.to;
  }

  draw() {
    const before = performance.now();
    this.image = this.generate(this.latent, this.mix);
    this.cost = performance.now() - before;
    this.image = Float32Array.from(this.image);  // the pad generates others
    this.picture.paint(this.image);
    for (const view of this.views) view.show(this);
  }

  // Draws in the next frame, once, however often it is called before.
  change() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame((now) => {
      this.scheduled = false;
      if (this.walk) this.advance(now);
      this.draw();
      if (this.walk) this.change();
    });
  }

  // Ends a walk.
  stop() {
    this.walk = null;
    this.mix = {from: this.label, to: this.label, part: 0};
    for (const button of this.toggles) button.setAttribute("aria-pressed", false);
  }

  move(coordinates) {
    this.stop();
    this.latent = this.directions.moved(this.latent, coordinates);
    this.change();
  }

  choose(label) {
    this.stop();
    this.mix = {from: label, to: label, part: 0};
    this.change();
  }

  toggle(kind) {
    const running = this.walk?.kind;
    this.stop();
    if (running !== kind) {
      this.walk = {kind, started: null, from: this.latent, to: randomLatent(this.latent.length)};
      for (const button of this.toggles) button.setAttribute("aria-pressed", button.dataset.action === kind);
    }
    this.change();
  }

  advance(now) {
    const {walk} = this, next = (label) => (label + 1) % this.data.classes.length;
    walk.started ??= now;
    if (now - walk.started >= LEG) {
      walk.started = now;
      [walk.from, walk.to] = [walk.to, randomLatent(this.latent.length)];
      this.mix = {...this.mix, from: this.mix.to};
    }
    const part = (now - walk.started) / LEG, smooth = part * part * (3 - 2 * part);
    if (walk.kind === "walk") this.latent = interpolated(walk.from, walk.to, smooth);
    else this.mix = {from: this.mix.from, to: next(this.mix.from), part: smooth};
  }

  listen() {
    const actions = {
      draw: () => { this.latent = randomLatent(this.latent.length); this.move([]); },
      centre: () => this.move(this.data.shares.map((share, i) => [i, 0])),
      walk: () => this.toggle("walk"),
      classes: () => this.toggle("classes"),
    };
    for (const button of this.root.querySelectorAll("[data-action]")) {
      button.addEventListener("click", actions[button.dataset.action]);
    }
    this.root.addEventListener("keydown", (event) => {
      const action = KEYS[event.key.toLowerCase()], shown = this.root.querySelector(`[data-action="${action}"]`);
      const other = event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT";
      if (shown && !other) actions[action]();
    });
  }
}

// For scripts: the image (C * H * W numbers in [-1, 1]) of a latent and a class, and the logit of an image.
function scripted({data, generate, judge}) {
  const of = (label) => ({from: label, to: label, part: 0});
  return {
    data,
    generate: (latent, label = 0) => Float32Array.from(generate(latent, of(label))),
    judge: judge && ((image, label = 0) => judge(image, of(label))[0]),
  };
}

// A page that hides a generator at first, in a tab, does not wait for it.
const visible = new IntersectionObserver((entries) => {
  for (const {target} of entries.filter((entry) => entry.isIntersecting)) {
    visible.unobserve(target);
    try {
      target.explorer = scripted(new Explorer(target));
      performance.mark("explorer-ready");
    } catch (error) {
      const failed = target.querySelector(".explorer-failed");
      failed.textContent = `The generator can't run in this browser: ${error.message}`;
      failed.hidden = false;
    }
    if (window === window.top && target.closest("[data-explorer-focus]")) target.focus({preventScroll: true});
  }
});
document.querySelectorAll(".gan-explorer").forEach((root) => visible.observe(root));
