// Networks as lists of operations, executed with Float32Array. An operation is a function of this file with the name of
// its kind; results/export/layers.py writes the lists. There is no batch: one image at a time.

// The numbers of a packed buffer: little-endian, in base64, in single or half precision.
function unpack(packed) {
  const text = atob(packed.numbers), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const view = new DataView(bytes.buffer), wide = packed.precision === "float32";
  const numbers = new Float32Array(bytes.length / (wide ? 4 : 2));
  for (let i = 0; i < numbers.length; i++) {
    numbers[i] = wide ? view.getFloat32(4 * i, true) : fromHalf(view.getUint16(2 * i, true));
  }
  return numbers;
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// Returns a function (input, mix) -> Float32Array, which is valid until the next call. `mix` selects the class:
// {from, to, part} is the embedding of class `from`, moved by `part` of the way to that of class `to`.
function compile(network, inputShape) {
  const numbers = unpack(network);
  const steps = chain(network.operations, inputShape, numbers);
  return (input, mix) => steps.reduce((values, step) => step(values, mix), input);
}

function chain(operations, inputShape, numbers) {
  let shape = inputShape;
  return operations.map((operation) => {
    const output = new Float32Array(size(operation.shape));
    const step = OPERATIONS[operation.kind](operation, shape, output, numbers);
    shape = operation.shape;
    return step;
  });
}

const size = (shape) => shape.reduce((product, side) => product * side, 1);
const weightsOf = (numbers, part) => numbers.subarray(part.at, part.at + size(part.shape));

// Adds the embedding of a mix of two classes to `output`, from `start`.
function embed(output, start, table, width, mix) {
  for (let i = 0; i < width; i++) {
    output[start + i] = (1 - mix.part) * table[mix.from * width + i] + mix.part * table[mix.to * width + i];
  }
}

function dot(weights, start, values, count) {
  let a = 0, b = 0, c = 0, d = 0, i = 0;  // four sums: each addition would wait for the previous one
  for (; i + 3 < count; i += 4) {
    a += weights[start + i] * values[i];
    b += weights[start + i + 1] * values[i + 1];
    c += weights[start + i + 2] * values[i + 2];
    d += weights[start + i + 3] * values[i + 3];
  }
  for (; i < count; i++) a += weights[start + i] * values[i];
  return a + b + c + d;
}

// Elementwise operations.
function elementwise(f) {
  return (operation, shape, output) => {
    const apply = f(operation);
    return (values) => {
      for (let i = 0; i < output.length; i++) output[i] = apply(values[i]);
      return output;
    };
  };
}

// out[o] = the sum of the channels of a group, each convolved with a kernel of 3 x 3. The sides stay the same.
function convolve3(weights, padded, output, rows, columns, group, perGroup) {
  const wide = columns + 2, plane = (rows + 2) * wide, area = rows * columns;
  const outputs = output.length / area;
  for (let o = 0; o < outputs; o++) {
    const first = Math.floor(o / perGroup) * group;
    for (let c = 0; c < group; c++) {
      const w = 9 * (o * group + c);
      const a = weights[w], b = weights[w + 1], d = weights[w + 2], e = weights[w + 3], f = weights[w + 4];
      const g = weights[w + 5], h = weights[w + 6], k = weights[w + 7], l = weights[w + 8];
      for (let y = 0; y < rows; y++) {
        let at = (first + c) * plane + y * wide, to = o * area + y * columns;
        for (let x = 0; x < columns; x++, at++, to++) {
          output[to] += a * padded[at] + b * padded[at + 1] + d * padded[at + 2]
            + e * padded[at + wide] + f * padded[at + wide + 1] + g * padded[at + wide + 2]
            + h * padded[at + 2 * wide] + k * padded[at + 2 * wide + 1] + l * padded[at + 2 * wide + 2];
        }
      }
    }
  }
}

// A kernel of 1 x 1: four channels at a time, so that an output is loaded and stored once for four products.
function convolve1(weights, values, output, area, group, perGroup) {
  const outputs = output.length / area;
  for (let o = 0; o < outputs; o++) {
    const first = Math.floor(o / perGroup) * group, to = o * area;
    let c = 0;
    for (; c + 3 < group; c += 4) {
      const w = o * group + c, p = (first + c) * area, q = p + area, r = q + area, s = r + area;
      const a = weights[w], b = weights[w + 1], d = weights[w + 2], e = weights[w + 3];
      for (let i = 0; i < area; i++) {
        output[to + i] += a * values[p + i] + b * values[q + i] + d * values[r + i] + e * values[s + i];
      }
    }
    for (; c < group; c++) {
      const a = weights[o * group + c], p = (first + c) * area;
      for (let i = 0; i < area; i++) output[to + i] += a * values[p + i];
    }
  }
}

// Any other kernel.
function convolveAny(weights, padded, output, wide, plane, [rows, columns], [high, broad], group, perGroup) {
  const area = rows * columns, outputs = output.length / area;
  for (let o = 0; o < outputs; o++) {
    const first = Math.floor(o / perGroup) * group;
    for (let c = 0; c < group; c++) {
      for (let tap = 0; tap < high * broad; tap++) {
        const w = weights[(o * group + c) * high * broad + tap];
        const from = (first + c) * plane + Math.floor(tap / broad) * wide + tap % broad;
        for (let y = 0; y < rows; y++) {
          const at = from + y * wide, to = o * area + y * columns;
          for (let x = 0; x < columns; x++) output[to + x] += w * padded[at + x];
        }
      }
    }
  }
}

// Maps with a border of zeros. The border is never written.
function padder([channels, rows, columns], [top, left]) {
  const wide = columns + 2 * left, plane = (rows + 2 * top) * wide;
  const padded = new Float32Array(channels * plane);
  return (values) => {
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < rows; y++) {
        const from = (c * rows + y) * columns, to = c * plane + (y + top) * wide + left;
        for (let x = 0; x < columns; x++) padded[to + x] = values[from + x];
      }
    }
    return padded;
  };
}

// Calls f(index of an output, channel, row, column) for each output of `shape`.
function forEachPixel([channels, rows, columns], f) {
  for (let c = 0, i = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++, i++) f(i, c, y, x);
    }
  }
}

// An operation that copies numbers: `source` returns the index of the input of an output.
function gather(source) {
  return (operation, shape, output) => {
    const indices = new Int32Array(output.length);
    forEachPixel(operation.shape, (i, c, y, x) => { indices[i] = source(operation, shape, c, y, x); });
    return (values) => {
      for (let i = 0; i < indices.length; i++) output[i] = values[indices[i]];
      return output;
    };
  };
}

const clamped = (index, side) => Math.min(Math.max(index, 0), side - 1);

// Bilinear resampling along the columns of `outer` rows: see models/resampling.py.
function doubled(values, output, outer, side, inner) {
  for (let o = 0; o < outer; o++) {
    for (let y = 0; y < side; y++) {
      const here = (o * side + y) * inner, to = (o * 2 * side + 2 * y) * inner;
      const before = (o * side + clamped(y - 1, side)) * inner, after = (o * side + clamped(y + 1, side)) * inner;
      for (let i = 0; i < inner; i++) {
        output[to + i] = 0.75 * values[here + i] + 0.25 * values[before + i];
        output[to + inner + i] = 0.75 * values[here + i] + 0.25 * values[after + i];
      }
    }
  }
}

function halved(values, output, outer, side, inner) {
  for (let o = 0; o < outer; o++) {
    const from = o * side * inner;
    for (let y = 0; y < side / 2; y++) {
      const a = from + 2 * y * inner, b = a + inner, to = (o * side / 2 + y) * inner;
      const before = from + clamped(2 * y - 1, side) * inner, after = from + clamped(2 * y + 2, side) * inner;
      for (let i = 0; i < inner; i++) {
        output[to + i] = (3 * (values[a + i] + values[b + i]) + values[before + i] + values[after + i]) / 8;
      }
    }
  }
}

// (operation, shape of the input, output, all numbers of the network) -> (values, mix) => output
const OPERATIONS = {
  input(operation, shape, output, numbers) {
    if (!operation.embedding) return (values) => values;
    const table = weightsOf(numbers, operation.embedding), width = operation.embedding.shape[1];
    return (values, mix) => {
      output.set(values);
      embed(output, values.length, table, width, mix);
      return output;
    };
  },

  linear(operation, shape, output, numbers) {
    const weights = weightsOf(numbers, operation.weight), count = size(shape);
    const bias = operation.bias ? weightsOf(numbers, operation.bias) : new Float32Array(output.length);
    return (values) => {
      for (let o = 0; o < output.length; o++) output[o] = bias[o] + dot(weights, o * count, values, count);
      return output;
    };
  },

  logit(operation, shape, output, numbers) {
    const weights = weightsOf(numbers, operation.weight), count = size(shape);
    const bias = operation.bias ? weightsOf(numbers, operation.bias)[0] : 0;
    const table = operation.embedding && weightsOf(numbers, operation.embedding), row = new Float32Array(count);
    return (values, mix) => {
      output[0] = bias + dot(weights, 0, values, count);
      if (table) {
        embed(row, 0, table, count, mix);
        output[0] += dot(row, 0, values, count);
      }
      return output;
    };
  },

  leaky_relu: elementwise(({slope}) => (value) => (value > 0 ? value : slope * value)),
  tanh: elementwise(() => Math.tanh),
  clamp: elementwise(() => (value) => Math.min(Math.max(value, -1), 1)),
  reshape: () => (values) => values,

  convolution(operation, shape, output, numbers) {
    const weights = weightsOf(numbers, operation.weight), [outputs, rows, columns] = operation.shape;
    const bias = operation.bias ? weightsOf(numbers, operation.bias) : new Float32Array(outputs);
    const [, group, high, broad] = operation.weight.shape, perGroup = outputs / operation.groups;
    const [top, left] = operation.padding, area = rows * columns;
    const pad = top || left ? padder(shape, operation.padding) : (values) => values;
    const wide = shape[2] + 2 * left, plane = (shape[1] + 2 * top) * wide;
    return (values) => {
      for (let o = 0; o < outputs; o++) output.fill(bias[o], o * area, (o + 1) * area);
      const padded = pad(values);
      if (high === 3 && broad === 3 && top === 1 && left === 1) {
        convolve3(weights, padded, output, rows, columns, group, perGroup);
      } else if (high === 1 && broad === 1 && !top && !left) {
        convolve1(weights, padded, output, area, group, perGroup);
      } else {
        convolveAny(weights, padded, output, wide, plane, [rows, columns], [high, broad], group, perGroup);
      }
      return output;
    };
  },

  scale_maps(operation, shape, output, numbers) {
    const maps = weightsOf(numbers, operation.maps), area = maps.length / shape[0];
    return (values) => {
      for (let i = 0; i < output.length; i++) output[i] = values[Math.floor(i / area)] * maps[i];
      return output;
    };
  },

  pixel_shuffle: gather(({factor}, [, rows, columns], c, y, x) => {
    const channel = (c * factor + y % factor) * factor + x % factor;
    return (channel * rows + Math.floor(y / factor)) * columns + Math.floor(x / factor);
  }),

  pixel_unshuffle: gather(({factor}, [, rows, columns], c, y, x) => {
    const within = c % (factor * factor), channel = Math.floor(c / (factor * factor));
    const row = y * factor + Math.floor(within / factor);
    return (channel * rows + row) * columns + x * factor + within % factor;
  }),

  enlarge: gather((operation, [, rows, columns], c, y, x) => (c * rows + (y >> 1)) * columns + (x >> 1)),

  average_pool(operation, [, rows, columns], output) {  // of 2 x 2; at an odd border, of those that exist
    return (values) => {
      forEachPixel(operation.shape, (i, c, y, x) => {
        let sum = 0, count = 0;
        for (let row = 2 * y; row < Math.min(2 * y + 2, rows); row++) {
          for (let column = 2 * x; column < Math.min(2 * x + 2, columns); column++, count++) {
            sum += values[(c * rows + row) * columns + column];
          }
        }
        output[i] = sum / count;
      });
      return output;
    };
  },

  upsample(operation, [channels, rows, columns], output) {
    const taller = new Float32Array(channels * 2 * rows * columns);
    return (values) => {
      doubled(values, taller, channels, rows, columns);
      doubled(taller, output, channels * 2 * rows, columns, 1);
      return output;
    };
  },

  downsample(operation, [channels, rows, columns], output) {
    const narrower = new Float32Array(channels * rows * columns / 2);
    return (values) => {
      halved(values, narrower, channels * rows, columns, 1);
      halved(narrower, output, channels, rows, columns / 2);
      return output;
    };
  },

  residual(operation, shape, output, numbers) {
    const steps = chain(operation.branch, shape, numbers);
    return (values) => {
      const branch = steps.reduce((inner, step) => step(inner), values);
      for (let i = 0; i < output.length; i++) output[i] = values[i] + branch[i];
      return output;
    };
  },
};
