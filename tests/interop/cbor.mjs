// Canonical DAG-CBOR of numbers, BigInts, strings, byte arrays, arrays and plain objects, written from RFC 8949 and the
// DAG-CBOR specification.
function head(major, value) {
  const n = BigInt(value);
  if (n < 24n) return [major << 5 | Number(n)];
  const width = n < 1n << 8n ? 1 : n < 1n << 16n ? 2 : n < 1n << 32n ? 4 : 8;
  const bytes = [];
  for (let i = width - 1; i >= 0; i--) bytes.push(Number(n >> BigInt(8 * i) & 255n));
  return [major << 5 | 24 + Math.log2(width), ...bytes];
}

function parts(value) {
  if (typeof value === "number" || typeof value === "bigint") return value < 0 ? head(1, -1n - BigInt(value)) : head(0, value);
  if (value instanceof Uint8Array) return [...head(2, value.length), ...value];
  if (typeof value === "string") {
    const utf8 = new TextEncoder().encode(value);
    return [...head(3, utf8.length), ...utf8];
  }
  if (Array.isArray(value)) return [...head(4, value.length), ...value.flatMap(parts)];
  const keys = Object.keys(value).sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
  return [...head(5, keys.length), ...keys.flatMap((key) => [...parts(key), ...parts(value[key])])];
}

export const encode = (value) => Uint8Array.from(parts(value));
