// The plane of the first two directions, with images in its background.

const TILES = 7;  // images along each side
const SLOW = 60;  // milliseconds for an image: with more, there are none
const BUDGET = 8;  // milliseconds in a frame for them

class Pad {
  constructor(explorer) {
    this.explorer = explorer;
    this.pad = explorer.root.querySelector(".explorer-pad");
    this.marker = this.pad.querySelector(".explorer-marker");
    this.context = this.pad.querySelector("canvas").getContext("2d");
    this.tile = new Picture(document.createElement("canvas"), explorer.data.shape);
    this.drawn = 0;  // images
    this.scheduled = false;
    this.base = null;  // what they depend on: the class, and all coordinates but the first two
    this.pad.addEventListener("pointerdown", (event) => {
      this.pad.setPointerCapture(event.pointerId);
      this.follow(event);
    });
    this.pad.addEventListener("pointermove", (event) => { if (event.buttons) this.follow(event); });
    this.pad.addEventListener("keydown", (event) => this.step(event));
  }

  show({directions, latent, mix, walk, cost}) {
    const [x, y = 0] = directions.coordinates(latent), percent = (value) => `${50 + 50 * limited(value) / REACH}%`;
    this.marker.style.left = percent(x);
    this.marker.style.top = percent(-y);
    if (walk || cost > SLOW || directions.vectors.length < 2) return;
    const base = [...directions.moved(latent, [[0, 0], [1, 0]]), mix.from];
    if (this.base?.every((value, i) => Math.abs(value - base[i]) < 1e-4) !== true) this.drawn = 0;
    this.base = base;
    this.drawTiles();
  }

  // Draws some images in each frame, until all are there.
  drawTiles() {
    if (this.scheduled || this.drawn === TILES * TILES || this.explorer.walk) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      const started = performance.now();
      while (this.drawn < TILES * TILES && performance.now() - started < BUDGET) this.drawTile(this.drawn++);
      this.drawTiles();
    });
  }

  drawTile(index) {
    const {directions, latent, generate, mix} = this.explorer, {width, height} = this.tile.canvas;
    const column = index % TILES, row = Math.floor(index / TILES);
    const at = (position) => REACH * (2 * (position + 0.5) / TILES - 1);
    this.tile.paint(generate(directions.moved(latent, [[0, at(column)], [1, -at(row)]]), mix));
    const side = this.context.canvas.width / TILES, scale = side / Math.max(width, height);
    const left = column * side + (side - width * scale) / 2, top = row * side + (side - height * scale) / 2;
    this.context.imageSmoothingEnabled = scale < 1;
    this.context.drawImage(this.tile.canvas, left, top, width * scale, height * scale);
  }

  moveTo(x, y) {
    this.explorer.move([[0, limited(x)], [1, limited(y)]].slice(0, this.explorer.directions.vectors.length));
  }

  follow({clientX, clientY}) {
    const {left, top, width, height} = this.pad.getBoundingClientRect();
    this.moveTo(REACH * (2 * (clientX - left) / width - 1), REACH * (1 - 2 * (clientY - top) / height));
  }

  step(event) {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [x, y = 0] = this.explorer.directions.coordinates(this.explorer.latent), size = event.shiftKey ? 0.5 : 0.1;
    this.moveTo(x + size * steps[event.key][0], y + size * steps[event.key][1]);
  }
}
