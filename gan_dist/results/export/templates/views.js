// What shows the state of an explorer: each view has a function show(explorer), called after each new image.

const REACH = 3;  // standard deviations from the middle of the pad, or of a slider, to its end
const MANY = 24;  // classes that are a list instead of buttons

const limited = (value) => Math.min(Math.max(value, -REACH), REACH);

// A canvas of the size of an image.
class Picture {
  constructor(canvas, [channels, height, width]) {
    Object.assign(canvas, {width, height});
    this.canvas = canvas;
    this.channels = channels;
    this.context = canvas.getContext("2d");
    this.frame = this.context.createImageData(width, height);
  }

  paint(image) {  // (C, H, W) in [-1, 1]
    const {data} = this.frame, area = data.length / 4;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) data[4 * i + c] = 127.5 * (image[(this.channels === 1 ? 0 : c) * area + i] + 1);
      data[4 * i + 3] = 255;
    }
    this.context.putImageData(this.frame, 0, 0);
  }
}

class Sliders {
  constructor(explorer) {
    const list = explorer.root.querySelector(".explorer-sliders");
    this.rows = explorer.data.shares.map((share, i) => {
      const [label, name, input, output, part] = ["label", "span", "input", "output", "small"].map(
        (tag) => document.createElement(tag));
      name.textContent = i + 1;
      Object.assign(input, {type: "range", min: -REACH, max: REACH, step: 0.05});
      input.setAttribute("aria-label", `Direction ${i + 1}`);
      part.textContent = `${(100 * share).toFixed(share < 0.095 ? 1 : 0)} %`;
      label.append(name, input, output, part);
      list.append(label);
      input.addEventListener("input", () => explorer.move([[i, Number(input.value)]]));
      return {input, output};
    });
  }

  show({directions, latent}) {
    directions.coordinates(latent).forEach((value, i) => {
      const {input, output} = this.rows[i];
      if (Math.abs(input.value - value) > 0.026) input.value = value;  // not while it is being moved, in steps
      output.textContent = value.toFixed(1).replace("-", "\u2212");
    });
  }
}

class Classes {
  constructor(explorer) {
    const names = explorer.data.classes, group = explorer.root.querySelector(".explorer-classes");
    this.names = names;
    this.picture = explorer.picture.canvas;
    this.mark = names.length > MANY ? this.makeList(explorer, group) : this.makeButtons(explorer, group);
  }

  makeList(explorer, group) {
    const list = document.createElement("select");
    list.setAttribute("aria-label", "Class");
    this.names.forEach((name, label) => list.add(new Option(name, label)));
    list.addEventListener("change", () => explorer.choose(Number(list.value)));
    group.append(list);
    return (label) => { list.value = label; };
  }

  makeButtons(explorer, group) {
    const buttons = this.names.map((name, label) => {
      const button = document.createElement("button");
      Object.assign(button, {type: "button", textContent: name});
      button.addEventListener("click", () => explorer.choose(label));
      group.append(button);
      return button;
    });
    return (label) => buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === label));
  }

  show({label}) {
    this.mark(label);
    this.picture.setAttribute("aria-label", `Generated image of class ${this.names[label]}`);
  }
}

class Opinion {
  constructor({root, data}) {
    [this.output, this.bar, this.text] = ["output", ".explorer-bar div", "p"].map(
      (selector) => root.querySelector(`.explorer-opinion ${selector}`));
    Object.assign(this, data.discriminator);
  }

  show({judge, image, mix}) {
    const [logit] = judge(image, mix);
    const rank = this.quantiles.filter((quantile) => quantile < logit).length / this.quantiles.length;
    const score = this.paired ? rank : 1 / (1 + Math.exp(-logit)), percent = Math.round(100 * rank);
    this.output.textContent = this.paired ? `${percent} %` : `${Math.round(100 * score)} % real`;
    this.text.textContent = this.paired
      ? `More real to it than ${percent} % of this generator's images.`
      : `More than for ${percent} % of this generator's images.`;
    this.bar.style.width = `${100 * score}%`;
  }
}
