// The operations of a network, by the names that results/export/layers.py uses.

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
