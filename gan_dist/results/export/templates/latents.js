// Latents: vectors of standard normal numbers.

function randomLatent(size) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  return Float32Array.from({length: size}, normal);
}

const product = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

// Spherical interpolation (White 2016, arXiv:1609.04468): the length of a latent stays typical.
function interpolated(a, b, part) {
  const cosine = product(a, b) / Math.sqrt(product(a, a) * product(b, b));
  const angle = Math.acos(Math.min(Math.max(cosine, -1), 1)), sine = Math.sin(angle);
  const [p, q] = sine > 1e-3 ? [Math.sin((1 - part) * angle) / sine, Math.sin(part * angle) / sine] : [1 - part, part];
  return a.map((value, i) => p * value + q * b[i]);
}

// Orthonormal directions in the space of latents.
class Directions {
  constructor(packed, size) {
    const numbers = unpack(packed);
    this.vectors = Array.from({length: numbers.length / size}, (_, i) => numbers.subarray(i * size, (i + 1) * size));
  }

  coordinates(latent) {
    return this.vectors.map((vector) => product(vector, latent));
  }

  // The latent with other coordinates along some directions: [[direction, coordinate], …].
  moved(latent, coordinates) {
    const result = Float32Array.from(latent);
    for (const [i, wanted] of coordinates) {
      const vector = this.vectors[i], change = wanted - product(vector, latent);
      for (let k = 0; k < result.length; k++) result[k] += change * vector[k];
    }
    return result;
  }
}
