// Loops over numbers: the inner ones have unit stride.

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
