// Networks as lists of operations, executed with Float32Array. results/export/layers.py writes the lists, operations.js
// has the operations. There is no batch: one image at a time.

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
